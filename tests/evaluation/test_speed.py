"""Timing, on a clock of our own."""

import numpy as np

from flexivit_jax.evaluation import costs


class Clock:
  """Stands still but for the calls that are timed."""

  def __init__(self, *seconds):
    self.now, self.calls, self.seconds = 0.0, 0, seconds

  def __call__(self):
    return self.now

  def run(self):
    self.now += self.seconds[min(self.calls, len(self.seconds) - 1)]
    self.calls += 1
    return np.zeros(())


def test_the_first_call_warms_up_and_is_not_counted():
  clock = Clock(100.0, 0.25)
  seconds = costs.seconds_each(clock.run, long_enough=1.0, clock=clock)
  assert seconds.tolist() == [0.25] * 4


def test_at_least_and_at_most_so_many_calls():
  slow, quick = Clock(9.0), Clock(0.0)
  assert len(costs.seconds_each(slow.run, least=3, clock=slow)) == 3
  assert len(costs.seconds_each(quick.run, most=7, clock=quick)) == 7


def test_what_was_started_is_waited_for():
  class Pending:
    waited = 0

    def block_until_ready(self):
      Pending.waited += 1
      return self

  costs.seconds_each(Pending, least=3, long_enough=0.0)
  assert Pending.waited == 4


def test_latency_and_throughput(monkeypatch):
  seconds = np.arange(1.0, 101.0)
  monkeypatch.setattr(costs, "seconds_each", lambda run, **_: seconds)
  assert costs.latency(None) == (50.5, 95.05)
  assert costs.per_second(None, 101) == 2.0
