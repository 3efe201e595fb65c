"""Memory of a run's steps: estimated, checked, and explained when it ends."""

import functools
import math
from collections.abc import Callable, Collection

from flexivit_jax.core.text import format_bytes
from flexivit_jax.devices import memory, out_of_memory, placement
from flexivit_jax.models import cost

Size = tuple[int, int] | None  # of a patch; None: packed rows


def costliest(sizes: Collection[Size]) -> Size:
  """The patch size that cuts an image into the most tokens."""
  return min(sizes, key=lambda size: math.prod(size or ()))


def estimate(run, size: Size) -> memory.Memory:
  """Estimate for a training step of a `programs.Run`, on each device."""
  state = run.state_shapes
  return memory.estimate(
    functools.partial(run.measure, **run.arrays),
    state.params,
    state.opt_state,
    placement.shapes(run.loader.example(), run.mesh),
    ema=state.ema,
    patch_hw=size,
    num_devices=run.mesh.shape["data"],
    parts=run.mesh.shape["seq"],
    held=run.arrays,
    accumulate=run.experiment.accumulate,
  )


def check(run, report: Callable[[str], None]) -> None:
  """Compares the estimate with the devices' memory, before compiling.

  Raises:
    OutOfMemoryError: a step needs far more, or all but certainly so.
  """
  limit = memory.device_bytes(run.mesh.local_devices[0])
  size = costliest(run.experiment.programs)
  needed = estimate(run, size)
  if limit is None or needed.total <= limit:
    return
  problem = f"too little memory ({format_bytes(limit)})"
  text = _describe(run, problem, size, needed, limit)
  # Beyond the error of the estimate.
  if needed.total > 1.5 * limit:
    raise out_of_memory.OutOfMemoryError(text)
  report(f"warning: {text}")


def explaining(run, sizes: Collection[Size]):
  """As `out_of_memory.explaining`; any of these patch sizes may exhaust it.

  Args:
    sizes: read when it happens, so they may change inside.
  """

  def describe():
    size = costliest(sizes)
    return _describe(run, "out of memory", size, estimate(run, size))

  return out_of_memory.explaining(describe)


def explaining_evaluation(run):
  """As `out_of_memory.explaining_evaluation`, for the run's own evaluation."""
  return out_of_memory.explaining_evaluation(
    run.experiment.eval_batch_size, "config.eval_batch_size"
  )


def _describe(run, problem, size, needed, limit=None) -> str:
  model, packing = run.experiment.model, run.experiment.packing
  if packing is not None:
    tokens = cost.packed_row_length(
      model, packing.row_length, packing.max_images
    )
  else:
    tokens = cost.tokens(run.loader.image_hw, size)
  return out_of_memory.describe_out_of_memory(
    problem,
    needed,
    batch_size=run.experiment.batch_size,
    patch_hw=size,
    largest_patch=max(run.experiment.patch_size.sizes, key=math.prod),
    tokens=tokens,
    remat=model.remat,
    scan=model.scan,
    dtype=model.dtype,
    num_devices=run.mesh.size,
    platform=run.mesh.devices.flat[0].platform,
    limit=limit,
  )
