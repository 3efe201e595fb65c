"""Passes over the data, patch sizes and token budgets measured on each."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import jax

from flexivit_jax.core.means import Mean
from flexivit_jax.core.tokens import Batch, Tokens
from flexivit_jax.nn import cost
from flexivit_jax.training import compilation, sharding


class Loader(Protocol):
  """Every image once, in batches.

  Attributes:
    bad: index to reason of the images that could not be decoded.
  """

  bad: dict[int, str]

  def __iter__(self) -> Iterable[Batch]: ...

  def example(self) -> Batch:
    """A batch of the shapes that will come, of no weight."""


@dataclasses.dataclass(frozen=True)
class Pass:
  """One reading of the data.

  Attributes:
    loader: of images of one size, which are cut on the devices, or of packed
      rows.
    sizes: patch sizes to measure on each of its batches; of packed rows the
      one that they were cut into.
    budget: most tokens of a packed image, where its resolution has a limit.
  """

  loader: Loader
  sizes: tuple[tuple[int, int], ...]
  budget: int | None = None

  def only(self, sizes: Iterable[tuple[int, int] | None]) -> "Pass":
    """With none but these sizes; packed rows stay as they are."""
    if isinstance(self.loader.example().inputs, Tokens):
      return self
    chosen = tuple(size for size in self.sizes if size in sizes)
    return dataclasses.replace(self, sizes=chosen)


def bad_images(passes: Iterable[Pass]) -> dict[int, str]:
  """Index to reason of the images that could not be decoded, each once."""
  return {i: text for each in passes for i, text in each.loader.bad.items()}


# Patch size and budget.
Key = tuple[tuple[int, int], int | None]

# (params, batch) to metrics, compiled.
Measure = Callable[[Any, Batch], dict[str, Mean]]


@dataclasses.dataclass(frozen=True)
class Point:
  """What one patch size did, at one budget.

  Attributes:
    patch_hw: (height, width) in pixels.
    tokens: patches per image, their mean where images differ.
    top1: share of images whose highest logit is the label's.
    loss: mean over images.
    images: that were evaluated.
    images_per_s: of the compiled forward pass, without data loading.
    budget: most tokens of an image; None: images of one size.
  """

  patch_hw: tuple[int, int]
  tokens: float
  top1: float
  loss: float
  images: int
  images_per_s: float
  budget: int | None = None

  @property
  def name(self) -> str:
    return point_name((self.patch_hw, self.budget))


def size_name(patch_hw: tuple[int, int]) -> str:
  """(8, 8) as "8", (8, 6) as "8x6"."""
  h, w = patch_hw
  return str(h) if h == w else f"{h}x{w}"


def point_name(key: Key) -> str:
  """((8, 8), 64) as "8:64", without a budget as "8"."""
  size, budget = key
  return size_name(size) + ("" if budget is None else f":{budget}")


def compile_measures(
  measure: Callable[..., dict[str, Mean]],
  passes: Iterable[Pass],
  params,
  mesh: jax.sharding.Mesh,
  report: Callable[[str], None],
) -> dict[Key, Measure]:
  """What `sweep` needs.

  Args:
    measure: (params, batch, patch_hw=size) to metrics; the size is None for
      packed rows.
    params: replicated over the mesh.
    report: called with one line after each program.
  """
  everywhere = sharding.replicated(mesh)
  compiled = {}
  for each in passes:
    batch = each.loader.example()
    packed = isinstance(batch.inputs, Tokens)
    programs = compilation.compile_sizes(
      measure,
      [None] if packed else each.sizes,
      arguments=(params, sharding.shapes(batch, mesh)),
      jit_options={
        "in_shardings": (everywhere, sharding.over_rows(mesh)),
        "out_shardings": everywhere,
      },
      report=report,
      what="evaluation",
      packed=f"packed rows, patches and budget {_names(each)}",
    )
    for size in each.sizes:
      compiled[size, each.budget] = programs[None if packed else size]
  return compiled


def _names(each: Pass) -> str:
  return ", ".join(point_name((size, each.budget)) for size in each.sizes)


def sweep(
  measures: dict[Key, Measure],
  params,
  passes: Sequence[Pass],
  on_devices: Callable[[Batch], Batch],
) -> list[Point]:
  """Measures each patch size of each pass on all of its batches.

  Args:
    measures: by `compile_measures`; metrics have "loss" and "accuracy".
    on_devices: places a batch.
  """
  points = []
  for each in passes:
    points += _read(measures, params, each, on_devices)
  return points


def _read(measures, params, each, on_devices):
  totals: dict[tuple[int, int], dict[str, Mean]] = {}
  seconds = dict.fromkeys(each.sizes, 0.0)
  rows, tokens = 0, Mean.zero()
  inputs = None
  for batch in each.loader:
    if isinstance(batch.inputs, Tokens):
      tokens += Mean((batch.inputs.segments > 0).sum(), batch.weights.sum())
    batch = on_devices(batch)
    inputs = batch.inputs
    rows += batch.index.size
    for size in each.sizes:
      start = time.perf_counter()
      measured = jax.block_until_ready(
        measures[size, each.budget](params, batch)
      )
      seconds[size] += time.perf_counter() - start
      if size in totals:
        measured = {k: totals[size][k] + v for k, v in measured.items()}
      totals[size] = measured
  if inputs is None:
    raise ValueError("there is no image to evaluate on")
  packed = isinstance(inputs, Tokens)
  return [
    Point(
      patch_hw=size,
      tokens=(
        float(tokens) if packed else cost.tokens(inputs.shape[1:3], size)
      ),
      top1=float(measured["accuracy"]),
      loss=float(measured["loss"]),
      images=int(measured["loss"].count),
      # Padding is computed too, so it counts where all images cost the same.
      images_per_s=(
        (int(measured["loss"].count) if packed else rows) / seconds[size]
      ),
      budget=each.budget,
    )
    for size, measured in totals.items()
  ]
