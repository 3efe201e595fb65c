"""A stream gives its elements in order; what ends a worker is told."""

import dataclasses
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest

from flexivit_jax.data.loading import stream
from flexivit_jax.data.loading.order import end_with_parent
from flexivit_jax.data.loading.stream import Stream, WorkerError


@dataclasses.dataclass(frozen=True)
class Numbers:
  """0, 1, 2, ... up to `n`, each after so many seconds."""

  seconds: float = 0.0
  n: int = 10_000

  def __len__(self):
    return self.n

  def __getitem__(self, i):
    end_with_parent()
    time.sleep(self.seconds)
    return {"i": np.array([i])}


def take(elements, n):
  return [int(next(elements)["i"][0]) for _ in range(n)]


MODES = ({"workers": 0, "threads": 0}, {"workers": 0, "threads": 3})
WORKERS = {"workers": 2, "threads": 1}


@pytest.mark.parametrize(
  "mode", [*MODES, pytest.param(WORKERS, marks=pytest.mark.slow)]
)
def test_elements_come_in_order_from_anywhere(mode):
  others = set(multiprocessing.active_children())
  elements = Stream(Numbers(), **mode)
  elements.close()  # nothing was started
  assert take(elements, 5) == [0, 1, 2, 3, 4]
  assert elements.position == 5
  elements.seek(100)
  assert elements.position == 100
  assert take(elements, 3) == [100, 101, 102]
  elements.close()
  elements.close()
  assert not set(multiprocessing.active_children()) - others
  elements.seek(1)
  assert take(elements, 2) == [1, 2]
  elements.close()
  assert elements.position == 3


@pytest.mark.parametrize("mode", MODES)
def test_the_end_is_an_end(mode):
  elements = Stream(Numbers(n=3), **mode)
  assert take(elements, 3) == [0, 1, 2]
  for _ in range(2):
    with pytest.raises(StopIteration):
      next(elements)
  elements.seek(2)
  assert take(elements, 1) == [2]


class Interrupted(Exception):
  """Raised by a signal's handler, as `training.interruption` does."""


@pytest.fixture
def alarm():
  """Raises `Interrupted` in this thread, so many seconds later."""

  def interrupt(*_):
    raise Interrupted

  before = signal.signal(signal.SIGALRM, interrupt)
  yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
  signal.setitimer(signal.ITIMER_REAL, 0)
  signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
  "mode", [*MODES, pytest.param(WORKERS, marks=pytest.mark.slow)]
)
def test_an_interrupted_wait_loses_no_element(mode, alarm):
  elements = Stream(Numbers(seconds=0.5), **mode)
  # Not while workers start: the first element of all is there.
  assert take(elements, 1) == [0]
  alarm(0.1)
  with pytest.raises(Interrupted):
    take(elements, 5)
  position = elements.position
  assert take(elements, 2) == [position, position + 1]
  # Closed while an answer is still to come.
  alarm(0.1)
  with pytest.raises(Interrupted):
    take(elements, 5)
  elements.close()
  assert elements.position >= position + 2


class Broken:
  """Its element 2 cannot be loaded."""

  def __len__(self):
    return 10

  def __getitem__(self, i):
    if i == 2:
      raise RuntimeError("no Worker of yours")
    return {"i": np.array([i])}


@pytest.mark.parametrize(
  "mode", [*MODES, pytest.param(WORKERS, marks=pytest.mark.slow)]
)
def test_an_error_of_the_sequence_is_raised_as_it_is(mode):
  elements = Stream(Broken(), **mode)
  assert take(elements, 2) == [0, 1]
  with pytest.raises(RuntimeError, match="no Worker of yours") as caught:
    next(elements)
  assert not isinstance(caught.value, WorkerError)
  elements.close()


ADVICE = (
  "(-9 is mostly a lack of memory: lower config.workers, 2 now, or "
  "config.threads)"
)


def wait_for_ever():
  threading.Event().wait()


class Stuck:
  """As Grain is when a worker dies with a lock held: it waits for ever.

  Its first element starts two processes, its second kills one of them.
  """

  def __init__(self):
    self.processes = []

  def __iter__(self):
    return self

  def __next__(self):
    if self.processes:
      os.kill(self.processes[0].pid, signal.SIGKILL)
      wait_for_ever()
    context = multiprocessing.get_context("fork")
    for _ in range(2):
      # Forked, as a child that only sleeps need not import all this.
      process = context.Process(target=time.sleep, args=(600,), daemon=True)
      process.start()
      self.processes.append(process)
    return "the first"

  def close(self):
    wait_for_ever()


def watched(dataset, monkeypatch, patience):
  """A stream that waits for this dataset as for Grain's."""
  monkeypatch.setattr(stream, "PATIENCE_S", patience)
  elements = Stream((), **WORKERS)
  watch = stream._Watch(dataset, elements._lost)
  elements._next, elements._close = watch.next, watch.close
  return elements


@pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_worker_that_dies_with_a_lock_held_is_told(monkeypatch):
  stuck = Stuck()
  elements = watched(stuck, monkeypatch, patience=0.0)
  assert next(elements) == "the first"
  with pytest.raises(WorkerError) as caught:
    next(elements)
  assert str(caught.value) == (
    "a data worker was lost: it ended with exit code -9, holding a lock "
    f"{ADVICE}"
  )
  # The other one is ended too, and to close it all takes no lock.
  for process in stuck.processes:
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
  elements.close()


class Late:
  """An element that comes when it is told to."""

  def __init__(self):
    self.come = threading.Event()
    self.asked = 0

  def __iter__(self):
    return self

  def __next__(self):
    self.asked += 1
    self.come.wait()
    return self.asked

  def close(self):
    self.come.set()


def test_a_slow_element_is_waited_for(monkeypatch, alarm):
  late = Late()
  elements = watched(late, monkeypatch, patience=0.0)
  timer = threading.Timer(1.5, late.come.set)
  timer.start()
  assert next(elements) == 1  # longer than a look at the workers
  timer.join()
  late.come.clear()
  alarm(0.2)
  with pytest.raises(Interrupted):
    next(elements)
  assert (late.asked, elements.position) == (2, 1)
  late.come.set()
  # What had been asked for then is what comes now.
  assert [next(elements), next(elements)] == [2, 3]
  assert elements.position == 3
  elements.close()


@pytest.mark.slow
def test_a_worker_that_idles_when_it_is_killed_is_told():
  before = set(multiprocessing.active_children())
  elements = Stream(Numbers(), **WORKERS)
  take(elements, 1)
  worker = (set(multiprocessing.active_children()) - before).pop()
  time.sleep(1)  # until its buffers are full: it holds no lock
  os.kill(worker.pid, signal.SIGKILL)
  with pytest.raises(WorkerError) as caught:
    take(elements, 1000)
  text = str(caught.value)
  assert text.startswith("a data worker was lost: ")
  assert "exit code -9" in text
  assert text.endswith(ADVICE)
  elements.close()
