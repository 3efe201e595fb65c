"""Shares of the time, with a clock of our own."""

import threading
import time

import pytest

from flexivit_jax.training import time_split


class Clock:
  now = 100.0

  def __call__(self):
    return self.now


class Result:
  """What a step returns: ready when told so."""

  def __init__(self):
    self.ready = threading.Event()

  def block_until_ready(self):
    assert self.ready.wait(30)


def finish(split, result):
  """Ends the step under way, and lets the thread see it."""
  steps = split._steps
  before = len(steps._starts)
  result.ready.set()
  deadline = time.monotonic() + 30
  while len(steps._starts) == before:
    assert time.monotonic() < deadline
    time.sleep(0.001)


@pytest.fixture
def clock():
  return Clock()


@pytest.fixture
def split(clock):
  split = time_split.TimeSplit(clock)
  split.start()
  yield split
  split.close()


def test_shares_are_of_the_whole_time_and_speed_of_that_without_evaluation(
  split, clock
):
  with split.waiting():
    clock.now += 1  # nothing under way yet
  with split.part("transfer"):
    clock.now += 2
  result = Result()
  split.dispatched(clock.now, result)
  clock.now += 4
  finish(split, result)
  with split.part("evaluation"):
    clock.now += 8
  with split.part("checkpoint"):
    clock.now += 5
  seconds, shares = split.take()
  assert seconds == 12
  assert shares == {
    "speed/device": 4 / 20,
    "speed/data_wait": 1 / 20,
    "speed/transfer": 2 / 20,
    "speed/evaluation": 8 / 20,
    "speed/checkpoint": 5 / 20,
  }
  assert tuple(shares) == time_split.SHARES


def test_only_idle_devices_wait_for_data(split, clock):
  result = Result()
  split.dispatched(clock.now, result)
  with split.waiting():
    clock.now += 3
  with split.waiting():
    clock.now += 1
    finish(split, result)
    clock.now += 2
  _, shares = split.take()
  # 4 of 6 under way; the devices were idle for 2, not for 3 or 6.
  assert shares["speed/device"] == pytest.approx(4 / 6)
  assert shares["speed/data_wait"] == pytest.approx(2 / 6)


def test_a_step_counts_where_it_runs(split, clock):
  """Of a step that goes on after the row, each row has its part."""
  first, second = Result(), Result()
  split.dispatched(clock.now, first)
  clock.now += 1
  split.dispatched(clock.now, second)  # queued behind the first
  clock.now += 1
  finish(split, first)
  clock.now += 2
  assert split.take() == (
    4,
    dict.fromkeys(time_split.SHARES, 0.0) | {"speed/device": 1.0},
  )
  clock.now += 1
  finish(split, second)
  clock.now += 1
  _, shares = split.take()
  assert shares["speed/device"] == 1 / 2


def test_a_step_that_fails_is_raised_elsewhere(split, clock):
  class Failed:
    def block_until_ready(self):
      raise RuntimeError("out of memory")

  split.dispatched(clock.now, Failed())
  result = Result()
  split.dispatched(clock.now, result)
  clock.now += 1
  finish(split, result)
  assert split._steps.read() == (clock.now, 1)


def test_a_split_that_saw_no_step_has_no_thread():
  before = threading.active_count()
  split = time_split.TimeSplit()
  assert threading.active_count() == before
  split.close()
