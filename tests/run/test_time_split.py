"""Shares of the time, with a clock of our own."""

import threading
import time

import pytest

from flexivit_jax.run import speed


class Clock:
  now = 100.0

  def __call__(self):
    return self.now


class Result:
  """What a step returns: ready when told so, or known to be so before."""

  def __init__(self, seen_late=False):
    self.ready = threading.Event()
    self.seen_late = seen_late
    self.looked_at = threading.Event()

  def is_ready(self):
    self.looked_at.set()
    return self.seen_late

  def block_until_ready(self):
    assert self.ready.wait(30)


def finish(split, result):
  """Ends the step under way, and lets the thread see it."""
  before = len(split._starts)
  result.ready.set()
  deadline = time.monotonic() + 30
  while len(split._starts) == before:
    assert time.monotonic() < deadline
    time.sleep(0.001)


@pytest.fixture
def clock():
  return Clock()


@pytest.fixture
def split(clock):
  split = speed.TimeSplit(clock)
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
  first, second = Result(), Result()
  split.dispatched(clock.now, first)
  clock.now += 4
  finish(split, first)
  with split.part("evaluation"):
    clock.now += 8
  with split.part("checkpoint"):
    clock.now += 5
  ending = split.dispatched(clock.now, second)
  clock.now += 5
  finish(split, second)
  seconds, shares = split.take(ending)
  assert seconds == 17
  assert shares == {
    "speed/device": 9 / 25,
    "speed/data_wait": 1 / 25,
    "speed/transfer": 2 / 25,
    "speed/evaluation": 8 / 25,
    "speed/checkpoint": 5 / 25,
  }
  assert tuple(shares) == speed.SHARES


def test_only_idle_devices_wait_for_data(split, clock):
  first, second = Result(), Result()
  split.dispatched(clock.now, first)
  with split.waiting():
    clock.now += 3
  with split.waiting():
    clock.now += 1
    finish(split, first)
    clock.now += 2
  ending = split.dispatched(clock.now, second)
  clock.now += 1
  finish(split, second)
  _, shares = split.take(ending)
  # 5 of 7 under way; the devices were idle for 2, not for 3 or 6.
  assert shares["speed/device"] == pytest.approx(5 / 7)
  assert shares["speed/data_wait"] == pytest.approx(2 / 7)


def only(**seconds):
  return dict.fromkeys(speed.SHARES, 0.0) | {
    f"speed/{name}": x for name, x in seconds.items()
  }


def test_a_row_has_the_time_up_to_the_end_of_its_own_step(split, clock):
  """However late it is read, and whatever the loop does at that moment."""
  first, second = Result(), Result()
  one = split.dispatched(clock.now, first)
  clock.now += 1
  two = split.dispatched(clock.now, second)  # queued behind the first
  with split.part("transfer"):
    clock.now += 2
    finish(split, first)  # in the midst of it
    clock.now += 4
  finish(split, second)
  clock.now += 90
  assert split.take(one) == (3, only(device=1.0, transfer=2 / 3))
  clock.now += 90
  assert split.take(two) == (4, only(device=1.0, transfer=1.0))


def test_a_row_waits_for_the_thread(split, clock):
  result = Result()
  ending = split.dispatched(clock.now, result)
  clock.now += 2
  threading.Timer(0.05, result.ready.set).start()
  assert split.take(ending) == (2, only(device=1.0))


@pytest.mark.parametrize(("seen_late", "length"), [(True, 5), (False, 1)])
def test_no_speed_from_a_moment_that_is_not_known(
  split, clock, seen_late, length
):
  """The end of the step before the row was seen up to 4 s late."""

  def run(seconds, seen_late=False):
    result = Result(seen_late)
    ending = split.dispatched(clock.now, result)
    assert result.looked_at.wait(30)
    clock.now += seconds
    finish(split, result)
    return split.take(ending)

  assert run(4, seen_late) == (4, only(device=1.0))
  # Then any row that is longer, or has one of any length after it.
  assert run(length) == (length, only(device=1.0))
  assert run(4, seen_late=True) == (4, only(device=1.0))
  assert run(4) is None
  assert run(1) == (1, only(device=1.0))


def test_a_step_that_fails_is_raised_elsewhere(split, clock):
  class Failed:
    def block_until_ready(self):
      raise RuntimeError("out of memory")

  split.dispatched(clock.now, Failed())
  result = Result()
  ending = split.dispatched(clock.now, result)
  clock.now += 1
  finish(split, result)
  assert split.take(ending) == (1, only(device=1.0))


def test_a_split_that_saw_no_step_has_no_thread():
  before = threading.active_count()
  split = speed.TimeSplit()
  assert threading.active_count() == before
  split.close()
