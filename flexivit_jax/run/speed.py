"""Where the time of a run goes, without stopping the devices to ask."""

import collections
import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec


@dataclasses.dataclass(frozen=True)
class Reading:
  """What was counted up to a moment.

  Attributes:
    time: of the clock, in s.
    seconds: by what they were spent on.
    late: by how many seconds, at most, the moment that was meant is earlier.
  """

  time: float
  seconds: collections.Counter
  late: float = 0.0


class Ending:
  """The end of a step, which may be to come."""

  def __init__(self):
    self._reached = threading.Event()
    self._reading = None

  def reach(self, reading: Reading) -> None:
    self._reading = reading
    self._reached.set()

  def wait(self) -> Reading:
    """What was counted when the step ended, as soon as that is known."""
    self._reached.wait()
    return self._reading


class TimeSplit:
  """The time since the last `take`, by what it was spent on.

  A thread waits for the result of each step, so that the loop need not.
  """

  def __init__(self, clock: Callable[[], float] = time.perf_counter):
    self._clock = clock
    self._lock = threading.Lock()
    self._seconds = collections.Counter()  # of what is over
    self._part = None  # (name, start) of what is not
    self._starts = collections.deque()  # of the steps under way
    self._end = clock()  # of the last step that is finished
    self._results = queue.SimpleQueue()
    self._thread = None
    self._before = self._read(self._end)

  def start(self) -> None:
    """Starts the clock: what was compiled before is none of the training."""
    with self._lock:
      self._before = self._read(self._clock())

  def dispatched(self, start: float, result) -> Ending:
    """Counts a step from `start`, or the end of the one before, until its
    result is ready."""
    if self._thread is None:
      self._thread = threading.Thread(target=self._wait, daemon=True)
      self._thread.start()
    ending = Ending()
    with self._lock:
      self._starts.append(start)
    self._results.put((result, ending))
    return ending

  def _wait(self):
    while (item := self._results.get()) is not None:
      result, ending = item
      # If so, it ended at any time since the one before.
      ended = getattr(result, "is_ready", bool)()
      # What went wrong is raised where the loop reads it.
      with contextlib.suppress(Exception):
        jax.block_until_ready(result)
      del result, item
      with self._lock:
        now = self._clock()
        start = max(self._starts.popleft(), self._end)
        self._seconds["speed/device"] += now - start
        self._end = now
        ending.reach(self._read(now, late=now - start if ended else 0.0))

  def _read(self, now, late=0.0):
    """All that was counted, what is under way included."""
    seconds = self._seconds.copy()
    if self._starts:
      seconds["speed/device"] += now - max(self._starts[0], self._end)
    if self._part is not None:
      name, start = self._part
      seconds[name] += now - start
    return Reading(now, seconds, late)

  @contextlib.contextmanager
  def part(self, name: str) -> Iterator[None]:
    """Counts the time inside as "speed/NAME", and shows it in a trace."""
    with self._lock:
      self._part = f"speed/{name}", self._clock()
    with jax.profiler.TraceAnnotation(name):
      yield
    with self._lock:
      name, start = self._part
      self._seconds[name] += self._clock() - start
      self._part = None

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Counts the time inside, as far as no step was under way."""
    start = self._clock()
    with jax.profiler.TraceAnnotation("data_wait"):
      yield
    with self._lock:
      now = self._clock()
      if not self._starts:
        self._seconds["speed/data_wait"] += now - max(start, self._end)

  def take(self, ending: Ending) -> tuple[float, dict[str, float]] | None:
    """Of the time up to the end of a step: seconds without evaluations, and
    `SHARES` of all. Starts anew there.

    Waits for the thread to see that step end, so not for long where the
    result is there already. None: it saw the end before so late that the time
    may be twice as long.
    """
    before, self._before = self._before, ending.wait()
    whole = self._before.time - before.time
    if whole <= before.late:
      return None
    seconds = self._before.seconds - before.seconds
    shares = {name: seconds[name] / whole for name in SHARES}
    return whole - seconds["speed/evaluation"], shares

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


# Sides of the matrices. At 1024 the product takes 5 ms on two CPU cores; small
# ones do not fill an accelerator.
SIDES = (1024, 2048, 4096, 8192)


def key(devices: Sequence[jax.Device], dtype: str) -> str:
  """What a rate is of: "2 NVIDIA H200, bfloat16"."""
  return f"{len(devices)} {devices[0].device_kind}, {dtype}"


def measure(
  devices: Sequence[jax.Device],
  dtype: str,
  *,
  sides: Sequence[int] = SIDES,
  seconds: float = 0.2,
  clock: Callable[[], float] = time.perf_counter,
) -> float:
  """FLOP/s of a product on each device at the same time, all together.

  The best of several: what else goes on at the same time only makes it slower.
  Operands are of the model's type, sums float32; a multiply-add is two FLOPs.

  Args:
    dtype: "float32" or "bfloat16".
    sides: of square matrices; larger ones are taken while they need no more
      than a tenth of `seconds`.
    seconds: for the measurement, apart from compiling.
  """
  best = 0.0
  for side in sides:
    product, operands = _product(devices, dtype, side)
    flops = 2 * len(devices) * side**3
    jax.block_until_ready(product(*operands))  # compiles
    start = end = clock()
    while end - start < seconds / 2:
      before = end
      jax.block_until_ready(product(*operands))
      end = clock()
      best = max(best, flops / (end - before))
    # The next one is eight times the work.
    if 8 * flops / best > seconds / 10:
      break
  return best


def _product(devices, dtype, side):
  mesh = jax.make_mesh(
    (len(devices),), ("x",), axis_types=(AxisType.Auto,), devices=devices
  )
  rows = NamedSharding(mesh, PartitionSpec("x"))
  everywhere = NamedSharding(mesh, PartitionSpec())
  # Not zeros: processors are faster at these.
  numbers = np.random.default_rng(0).normal(size=SIDES[0] ** 2)
  b = np.resize(numbers.astype(np.float32), (side, side))
  b = jax.device_put(jnp.asarray(b, dtype), everywhere)

  def product(a, b):
    return jax.lax.dot_general(
      a, b, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )

  copies = jax.jit(lambda b: jnp.tile(b, (len(devices), 1)), out_shardings=rows)
  product = jax.jit(
    product, in_shardings=(rows, everywhere), out_shardings=rows
  )
  return product, (copies(b), b)
