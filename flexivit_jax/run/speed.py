"""Speed of a run: time between rows, shares of it, and the devices' peak."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

# Parts of a run's time beside its steps.
DATA_WAIT, EVALUATION, CHECKPOINT = "data_wait", "evaluation", "checkpoint"


class Clock:
  """The time since the last row, and the parts of it that are no steps.

  Nothing here waits for the devices: a row is taken when its metrics are read,
  which is when its last step has ended.
  """

  def __init__(self, clock: Callable[[], float] = time.perf_counter):
    self._clock = clock
    self._parts = collections.Counter()
    self.start()

  def start(self) -> None:
    """Starts anew."""
    self._begun = self._clock()
    self._parts.clear()

  @contextlib.contextmanager
  def part(self, name: str) -> Iterator[None]:
    """Counts the time inside as a part, and shows it in a trace."""
    start = self._clock()
    with jax.profiler.TraceAnnotation(name):
      yield
    self._parts[name] += self._clock() - start

  def take(self) -> tuple[float, dict[str, float]]:
    """Seconds without evaluations, and shares of all as "speed/NAME"."""
    whole = max(self._clock() - self._begun, 1e-9)
    shares = {
      f"speed/{name}": self._parts[name] / whole
      for name in (DATA_WAIT, EVALUATION, CHECKPOINT)
    }
    seconds = whole - self._parts[EVALUATION]
    self.start()
    return seconds, shares


# Sides of the matrices. At 1024 the product takes 5 ms on two CPU cores; small
# ones do not fill an accelerator.
SIDES = (1024, 2048, 4096, 8192)


def key(devices: Sequence[jax.Device], dtype: str) -> str:
  """Name of a rate in the record: "2 NVIDIA H200, bfloat16"."""
  return f"{len(devices)} {devices[0].device_kind}, {dtype}"


def measure(
  devices: Sequence[jax.Device],
  dtype: str,
  *,
  sides: Sequence[int] = SIDES,
  seconds: float = 0.2,
  clock: Callable[[], float] = time.perf_counter,
) -> float:
  """FLOP/s of a matrix product on all devices at once, the best of several.

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
