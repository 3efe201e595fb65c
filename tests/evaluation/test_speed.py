"""Timing, on a clock of our own."""

import types

import numpy as np
import pytest

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


@pytest.mark.parametrize(
  ("calls", "found"),
  [
    # The first warms up; the rest until a second has passed.
    ((100.0, 0.25), [0.25] * 4),
    ((9.0,), [9.0] * 3),
    ((0.0,), [0.0] * costs.MOST),
  ],
)
def test_calls_are_timed_until_a_second_has_passed(calls, found, monkeypatch):
  clock = Clock(*calls)
  monkeypatch.setattr(costs, "time", types.SimpleNamespace(perf_counter=clock))
  assert costs.seconds_each(clock.run).tolist() == found


def test_what_was_started_is_waited_for(monkeypatch):
  monkeypatch.setattr(costs, "LONG_ENOUGH", 0.0)

  class Pending:
    waited = 0

    def block_until_ready(self):
      Pending.waited += 1
      return self

  costs.seconds_each(Pending, least=3)
  assert Pending.waited == 4


def test_latency_and_throughput(monkeypatch):
  seconds = np.arange(1.0, 101.0)
  monkeypatch.setattr(costs, "seconds_each", lambda run, **_: seconds)
  assert costs.latency(None) == (50.5, 95.05)
  assert costs.per_second(None, 101) == 2.0
