"""Where the time of a run goes, without stopping the devices to ask."""

import collections
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator

import jax


class StepClock:
  """The time in which steps are under way on the devices.

  A thread waits for the result of each step, so that the loop need not.
  """

  def __init__(self, clock: Callable[[], float] = time.perf_counter):
    self._clock = clock
    self._lock = threading.Lock()
    self._starts = collections.deque()  # of the steps under way
    self._finished = 0.0
    self._end = clock()  # of the last step that is finished
    self._results = queue.SimpleQueue()
    self._thread = None

  def dispatched(self, start: float, result) -> None:
    """Counts a step from `start`, or the end of the one before, until its
    result is ready."""
    if self._thread is None:
      self._thread = threading.Thread(target=self._wait, daemon=True)
      self._thread.start()
    with self._lock:
      self._starts.append(start)
    self._results.put(result)

  def _wait(self):
    while (result := self._results.get()) is not None:
      # What went wrong is raised where the loop reads it.
      with contextlib.suppress(Exception):
        jax.block_until_ready(result)
      del result
      with self._lock:
        now = self._clock()
        self._finished += now - max(self._starts.popleft(), self._end)
        self._end = now

  def read(self) -> tuple[float, float]:
    """The time, and the seconds up to it, of the step under way included."""
    with self._lock:
      now, busy = self._clock(), self._finished
      if self._starts:
        busy += now - max(self._starts[0], self._end)
      return now, busy

  def idle(self) -> float:
    """Seconds since the last step ended; 0 while one is under way."""
    with self._lock:
      return 0.0 if self._starts else self._clock() - self._end

  def close(self) -> None:
    """Ends the thread, after the steps under way."""
    if self._thread is not None:
      self._results.put(None)
      self._thread.join()


# Shares of the time since the row before.
SHARES = (
  "speed/device",
  "speed/data_wait",
  "speed/transfer",
  "speed/evaluation",
  "speed/checkpoint",
)


class TimeSplit:
  """The time since the last `take`, by what it was spent on."""

  def __init__(self, clock: Callable[[], float] = time.perf_counter):
    self._clock = clock
    self._steps = StepClock(clock)
    self._start = self._busy = 0.0
    self._seconds = collections.Counter()
    self.close = self._steps.close
    self.dispatched = self._steps.dispatched

  def start(self) -> None:
    """Starts the clock: what was compiled before is none of the training."""
    self._start, self._busy = self._steps.read()
    self._seconds.clear()

  @contextlib.contextmanager
  def part(self, name: str) -> Iterator[None]:
    """Counts the time inside as "speed/NAME", and shows it in a trace."""
    start = self._clock()
    with jax.profiler.TraceAnnotation(name):
      yield
    self._seconds[f"speed/{name}"] += self._clock() - start

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Counts the time inside, as far as no step was under way."""
    start = self._clock()
    with jax.profiler.TraceAnnotation("data_wait"):
      yield
    waited = min(self._clock() - start, self._steps.idle())
    self._seconds["speed/data_wait"] += waited

  def take(self) -> tuple[float, dict[str, float]]:
    """Seconds without evaluations, and `SHARES` of all; then starts anew."""
    seconds, before, busy = self._seconds.copy(), self._start, self._busy
    self.start()
    whole = self._start - before
    seconds["speed/device"] = self._busy - busy
    shares = {name: seconds[name] / whole for name in SHARES}
    return whole - seconds["speed/evaluation"], shares
