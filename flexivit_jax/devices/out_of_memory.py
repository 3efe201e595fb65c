"""Out-of-memory errors of devices, with the settings to lower."""

import contextlib
import math
import re
from collections.abc import Callable

import jax

from flexivit_jax.core.errors import Fault
from flexivit_jax.devices.memory import Memory

# RESOURCE_EXHAUSTED has other causes too, such as open files. TPUs say
# "Attempting to allocate ... That was not possible", also "to reserve".
_OUT_OF_MEMORY = re.compile(
  r"out[ _]of[ _]memory|resource_exhausted.*(allocat|reserve)",
  re.IGNORECASE | re.DOTALL,
)


class OutOfMemoryError(Fault):
  """A device's memory was too small."""


def is_out_of_memory(error: BaseException) -> bool:
  """Whether a device, or a compiler planning for it, ran out of memory.

  Raised by JAX where the step is dispatched or, as on a CPU, where its result
  is read. Python's MemoryError, the host's own, is not meant.
  """
  # Placing an array on a device raises some of these as ValueError.
  kinds = (jax.errors.JaxRuntimeError, ValueError)
  return isinstance(error, kinds) and bool(_OUT_OF_MEMORY.search(str(error)))


@contextlib.contextmanager
def explaining(describe: Callable[[], str]):
  """Turns an exhausted memory into an error that says what needs less.

  Args:
    describe: gives that text, once it happened.

  Raises:
    OutOfMemoryError: inside, memory ran out.
  """
  try:
    yield
  except Exception as e:
    if not is_out_of_memory(e):
      raise
    raise OutOfMemoryError(describe()) from e


def explaining_evaluation(batch_size: int, setting: str):
  """As `explaining`, for an evaluation.

  Args:
    batch_size: images or rows at once, over all devices.
    setting: that lowers it.
  """
  return explaining(
    lambda: (
      f"out of memory in the evaluation of {batch_size} images, or rows of "
      "packed ones, at once: lower "
      f"{setting}"
    )
  )


def describe_out_of_memory(
  problem: str,
  memory: Memory,
  *,
  batch_size: int,
  patch_hw: tuple[int, int] | None,
  largest_patch: tuple[int, int],
  tokens: int,
  remat: bool,
  scan: bool,
  dtype: str,
  num_devices: int,
  platform: str,
  limit: int | None = None,
) -> str:
  """At most five lines: what ran out, how much it needs, what to change.

  Args:
    problem: "out of memory", or that it will be.
    memory: of the train step, by `estimate`.
    batch_size: images or packed rows per step, over all devices.
    patch_hw, tokens: at which it ran out; patches per image. None: rows of so
      many tokens.
    largest_patch: of those in config.patch_size.
    remat, scan, dtype: of config.model.
    num_devices, platform: as in `estimate`.
    limit: bytes of a device, where known.
  """
  settings = []
  fewer = batch_size // 2
  if limit is not None and memory.activations:
    # Activations grow with the batch, the rest does not.
    fixed = memory.total - memory.activations
    share = (limit - fixed) / memory.activations
    fewer = min(fewer, int(0.8 * share * batch_size))
  fewer = fewer // num_devices * num_devices
  if fewer > 0:
    settings.append(f"--config.batch_size={fewer}")
  # Before jax 0.11 XLA undoes remat on a CPU, except in a scan; it has no
  # bfloat16 there.
  cpu = platform == "cpu"
  wanted = {"remat": remat, "scan": scan or not cpu}
  closed = [f"--config.model.{k}=true" for k, on in wanted.items() if not on]
  if closed:
    settings.append(" ".join(closed))
  if dtype == "float32" and not cpu:
    settings.append("--config.model.dtype=bfloat16")
  images = f"{batch_size} images"
  if patch_hw is None:
    what, images = f"rows of {tokens} tokens", f"{batch_size} of them"
    patches = "shorter rows in config.packing"
  else:
    what = f"{_by(patch_hw)} patches, {tokens} tokens per image"
    smallest = math.prod(largest_patch) > math.prod(patch_hw)
    kind = "no patches as small as" if smallest else "patches larger than"
    patches = f"{kind} {_by(patch_hw)} in config.patch_size"
  more = "a machine with more memory" if cpu else "more devices"
  lines = [
    f"{problem} for the train step: {what}, {images} on {num_devices} "
    f"{'device' if num_devices == 1 else 'devices'}",
    f"estimated need of each device: {memory}",
    f"to need less, in this order: {', or '.join(settings)}",
    f"then: {patches}, or smaller images, or {more}",
  ]
  return "\n".join(line for line in lines if not line.endswith(": "))


def _by(hw: tuple[int, int]) -> str:
  return f"{hw[0]}x{hw[1]}"
