"""Signals are remembered once, and obeyed the second time."""

import signal
import subprocess
import sys
import time

import pytest

from flexivit_jax.devices.processes import ALONE
from flexivit_jax.run.interruption import (
  Interrupted,
  Interruption,
  interruption_for,
)


@pytest.mark.parametrize(
  "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
)
def test_a_signal_is_remembered(number):
  before = signal.getsignal(number)
  with Interruption() as interruption:
    interruption.check()
    assert interruption.signal is None
    signal.raise_signal(number)
    # Python runs a handler soon after, not at once.
    deadline = time.monotonic() + 60
    while interruption.signal is None and time.monotonic() < deadline:
      time.sleep(0.001)
    assert interruption.signal == number
    with pytest.raises(Interrupted):
      interruption.check()
  assert signal.getsignal(number) is before
  assert interruption.signal == number  # known afterwards too


def test_a_signal_ends_a_wait():
  went_on = []

  def wait():
    with interruption.waiting():
      signal.raise_signal(signal.SIGTERM)
      went_on.append(True)

  with Interruption() as interruption:
    for _ in range(2):  # the second does not even begin
      with pytest.raises(Interrupted):
        wait()
  assert interruption.signal == signal.SIGTERM
  assert not went_on


def test_a_signal_after_a_wait_is_only_remembered():
  with Interruption() as interruption:
    with interruption.waiting():
      pass
    signal.raise_signal(signal.SIGTERM)
    assert interruption.signal == signal.SIGTERM


def test_what_is_ignored_stays_so():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with Interruption() as interruption:
      signal.raise_signal(signal.SIGHUP)
      assert interruption.signal is None
  finally:
    signal.signal(signal.SIGHUP, before)


BUSY = """
import ctypes, sys
from flexivit_jax.run.interruption import Interruption
with Interruption() as interruption:
  print("ready", flush=True)
  while interruption.signal is None:
    pass
  print("remembered", flush=True)
  # Deep in a library, as a compiled step is: no Python handler runs here.
  ctypes.PyDLL(None).sleep(60)
"""


@pytest.mark.parametrize(
  ("first", "second"),
  [
    (signal.SIGTERM, signal.SIGTERM),
    (signal.SIGINT, signal.SIGINT),
    (signal.SIGINT, signal.SIGTERM),
  ],
)
def test_a_second_signal_ends_even_a_stuck_process(first, second):
  process = subprocess.Popen(  # noqa: S603
    [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True
  )
  assert process.stdout.readline() == "ready\n"
  process.send_signal(first)
  assert process.stdout.readline() == "remembered\n"
  time.sleep(0.2)
  assert process.poll() is None
  process.send_signal(second)
  assert process.wait(timeout=10) == -second
  process.stdout.close()


class Peers:
  """Others, who stop at the question of this number."""

  index, count = 0, 2

  def __init__(self, stops_at):
    self.stops_at, self.asked = stops_at, []

  def gather(self, value):
    return [value, value]

  def stop_signal(self, own):
    self.asked.append(own)
    return signal.SIGTERM.value if len(self.asked) >= self.stops_at else None


def test_a_run_of_several_stops_where_all_do():
  peers = Peers(stops_at=3)
  with interruption_for(peers) as interruption:
    assert not interruption.stops()
    with interruption.waiting():  # the others use the batch too
      signal.raise_signal(signal.SIGINT)
    interruption.check()
    assert interruption.signal is None
    with pytest.raises(Interrupted):
      interruption.check()
    # It is agreed: nobody is asked again.
    assert interruption.stops()
  assert interruption.signal == signal.SIGTERM
  assert peers.asked == [None, signal.SIGINT, signal.SIGINT]


def test_an_own_signal_after_the_agreement_changes_nothing():
  with interruption_for(Peers(stops_at=1)) as interruption:
    assert interruption.stops()
    signal.raise_signal(signal.SIGHUP)
    assert interruption.stops()
    assert interruption.signal == signal.SIGTERM


def test_one_process_asks_nobody():
  assert type(interruption_for(ALONE)) is Interruption
