"""A sweep's table: its columns, and the terminal's view of them."""

import dataclasses
import math
from collections.abc import Sequence

from flexivit_jax.core.sizes import size_name
from flexivit_jax.core.text import align
from flexivit_jax.evaluation import deploy
from flexivit_jax.evaluation.settings import Point, Sweep

# What stands where one point has no number and others do.
NONE = "-"


@dataclasses.dataclass(frozen=True)
class Column:
  """One quantity at every point.

  Attributes:
    key: as in results.json.
    head: short name with unit.
    meaning: one sentence.
    cells: as text.
    values: what to sort by; NaN where not measured.
  """

  key: str
  head: str
  meaning: str
  cells: tuple[str, ...]
  values: tuple[float, ...]

  @property
  def measured(self) -> bool:
    return any(cell != NONE for cell in self.cells)


def columns(points: Sequence[Point], num_classes: int) -> tuple[Column, ...]:
  """Measured columns in the order of the table."""
  flop, flops = flop_unit(points)
  numbers = (
    (
      "tokens",
      "tokens",
      "Patches of an image; the mean where images differ.",
      deploy.tokens,
      _count,
    ),
    (
      "multiply_adds",
      flop,
      "Multiply-adds of one image's forward pass, which papers on ViTs call "
      "FLOPs.",
      lambda p: p.cost.multiply_adds / flops,
      _three_digits,
    ),
    (
      "top1",
      "top-1 %",
      "Images whose label has the highest logit.",
      lambda p: 100 * p.top1,
      _tenth,
    ),
    (
      "top5",
      "top-5 %",
      "Images whose label is among the five highest logits.",
      lambda p: 100 * p.top5 if num_classes > 5 else None,
      _tenth,
    ),
    (
      "loss",
      "loss",
      "The task's loss, mean over images.",
      lambda p: p.loss,
      lambda x: f"{x:.4f}",
    ),
    (
      "calibration_error",
      "ECE %",
      "Expected calibration error: how far confidence and accuracy lie apart, "
      "in 15 bins of confidence.",
      lambda p: 100 * p.calibration_error,
      _tenth,
    ),
    (
      "latency_median_s",
      "ms",
      "Latency of one image alone, warm: the median.",
      _milliseconds(0),
      _three_digits,
    ),
    (
      "latency_p95_s",
      "p95 ms",
      "Latency of one image alone, warm: the 95th percentile.",
      _milliseconds(1),
      _three_digits,
    ),
    (
      "images_per_s",
      "images/s",
      "Speed of the compiled forward pass on whole batches, without loading.",
      lambda p: p.cost.images_per_s,
      _three_digits,
    ),
    (
      "peak_bytes",
      "MiB",
      "Peak memory of each device for a batch, as the compiler plans it.",
      lambda p: p.cost.peak_bytes / 2**20,
      _three_digits,
    ),
    (
      "compile_s",
      "compile s",
      "Seconds to compile the forward pass of a batch.",
      lambda p: p.cost.compile_s,
      _three_digits,
    ),
  )
  made = [_patch(points), _at(points), *(_number(points, *x) for x in numbers)]
  return tuple(column for column in made if column.measured)


def table(sweep: Sweep) -> str:
  """Aligned text, a line for each point. How long it took to compile is left
  to the report, so that lines stay under 100 characters."""
  shown = [
    column
    for column in columns(sweep.points, len(sweep.classes))
    if column.key != "compile_s"
  ]
  rows = zip(*(column.cells for column in shown), strict=True)
  return align([[column.head for column in shown], *rows])


def flop_unit(points: Sequence[Point]) -> tuple[str, float]:
  """The largest unit of which the cheapest point has a tenth:
  ("GFLOP", 1e9)."""
  least = min(p.cost.multiply_adds for p in points)
  for name, size in (("TFLOP", 1e12), ("GFLOP", 1e9)):
    if least >= 0.1 * size:
      return name, size
  return "MFLOP", 1e6


def _patch(points):
  return Column(
    "patch_hw",
    "patch",
    "Side of a patch in pixels, or height x width.",
    cells=tuple(size_name(p.setting.patch_hw) for p in points),
    values=tuple(float(math.prod(p.setting.patch_hw)) for p in points),
  )


def _at(points):
  settings = [p.setting for p in points]
  if all(s.budget is not None for s in settings):
    return Column(
      "budget",
      "budget",
      "Most tokens that an image may have.",
      cells=tuple(str(s.budget) for s in settings),
      values=tuple(float(s.budget) for s in settings),
    )
  return Column(
    "image_hw",
    "image",
    "Side of the images in pixels, or height x width; or the most tokens that "
    "an image of its own size may have.",
    cells=tuple(s.at for s in settings),
    values=tuple(
      float(s.budget or (s.image_hw and math.prod(s.image_hw)) or math.nan)
      for s in settings
    ),
  )


def _number(points, key, head, meaning, of, form):
  values = [of(p) for p in points]
  return Column(
    key,
    head,
    meaning,
    cells=tuple(NONE if x is None else form(x) for x in values),
    values=tuple(math.nan if x is None else float(x) for x in values),
  )


def _milliseconds(which):
  return lambda p: p.cost.latency_s and 1e3 * p.cost.latency_s[which]


def _count(value):
  return f"{value:.0f}" if value % 1 == 0 else f"{value:.1f}"


def _three_digits(value):
  return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def _tenth(value):
  return f"{value:.1f}"
