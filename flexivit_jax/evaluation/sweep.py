"""One pass over the data, every patch size on each batch."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping

import jax

from flexivit_jax.core.means import Mean
from flexivit_jax.core.tokens import Batch
from flexivit_jax.nn import cost
from flexivit_jax.training import compilation, sharding


@dataclasses.dataclass(frozen=True)
class Point:
  """What one patch size did.

  Attributes:
    patch_hw: (height, width) in pixels.
    tokens: patches per image.
    top1: share of images whose highest logit is the label's.
    loss: mean over images.
    images: that were evaluated.
    images_per_s: of the compiled forward pass, without data loading.
  """

  patch_hw: tuple[int, int]
  tokens: int
  top1: float
  loss: float
  images: int
  images_per_s: float

  @property
  def name(self) -> str:
    return size_name(self.patch_hw)


def size_name(patch_hw: tuple[int, int]) -> str:
  """(8, 8) as "8", (8, 6) as "8x6"."""
  h, w = patch_hw
  return str(h) if h == w else f"{h}x{w}"


def compile_measures(
  measure: Callable[..., dict[str, Mean]],
  sizes: Iterable[tuple[int, int]],
  params,
  batch: Batch,
  mesh: jax.sharding.Mesh,
  report: Callable[[str], None],
) -> dict[tuple[int, int], Callable[..., dict[str, Mean]]]:
  """What `sweep` needs: (params, batch) to metrics, compiled for each size.

  Args:
    measure: (params, batch, patch_hw=size) to metrics.
    params: replicated over the mesh.
    batch: of one process, of the shapes that will come.
    report: called with one line after each size.
  """
  everywhere = sharding.replicated(mesh)
  return compilation.compile_sizes(
    measure,
    sizes,
    arguments=(params, sharding.shapes(batch, mesh)),
    jit_options={
      "in_shardings": (everywhere, sharding.over_rows(mesh)),
      "out_shardings": everywhere,
    },
    report=report,
    what="evaluation",
  )


def sweep(
  measures: Mapping[tuple[int, int], Callable[..., dict[str, Mean]]],
  params,
  batches: Iterable[Batch],
) -> list[Point]:
  """Measures each patch size on every batch; images are loaded once.

  Args:
    measures: for each size a compiled (params, batch) to metrics, among them
      "loss" and "accuracy".
    batches: on the devices, with images `[b, h, w, c]`.
  """
  totals: dict[tuple[int, int], dict[str, Mean]] = {}
  seconds = dict.fromkeys(measures, 0.0)
  image_hw, rows = None, 0
  for batch in batches:
    image_hw = batch.inputs.shape[1:3]
    rows += batch.inputs.shape[0]
    for size, measure in measures.items():
      start = time.perf_counter()
      measured = jax.block_until_ready(measure(params, batch))
      seconds[size] += time.perf_counter() - start
      if size in totals:
        measured = {k: totals[size][k] + v for k, v in measured.items()}
      totals[size] = measured
  if image_hw is None:
    raise ValueError("there is no image to evaluate on")
  return [
    Point(
      patch_hw=size,
      tokens=cost.tokens(image_hw, size),
      top1=float(measured["accuracy"]),
      loss=float(measured["loss"]),
      images=int(measured["loss"].count),
      # Padding is computed too, so it counts here.
      images_per_s=rows / seconds[size],
    )
    for size, measured in totals.items()
  ]
