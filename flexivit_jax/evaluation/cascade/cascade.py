"""Cascades over patch sizes: large patches first, small ones where in doubt."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from flexivit_jax.core.sizes import size_name
from flexivit_jax.tasks.predictions import Answers

# The threshold at which no image goes on: no confidence is so low.
STOP = -1.0


@dataclasses.dataclass(frozen=True)
class Cascade:
  """Patch sizes to try in turn, and when to try the next.

  Every image is seen at the first size. While its confidence, the probability
  of the predicted class, is at most the threshold of that size, it goes on to
  the next; its answer is that of the size where it stops.

  Attributes:
    sizes: (height, width) in pixels, of decreasing area. A single one is a
      cascade too.
    thresholds: one for each size but the last, in [0, 1], compared as
      float32. At 1 all images go on, at `STOP` none does; at 0 go on those
      of confidence 0.

  Raises:
    ValueError: anything else.
  """

  sizes: tuple[tuple[int, int], ...]
  thresholds: tuple[float, ...] = ()

  def __post_init__(self):
    check_sizes(self.sizes)
    if len(self.thresholds) != len(self.sizes) - 1:
      raise ValueError(
        f"{len(self.thresholds)} thresholds for the patch sizes "
        f"{_names(self.sizes)}: give one for each but the last, "
        f"{len(self.sizes) - 1}"
      )
    for size, threshold in zip(self.sizes, self.thresholds):
      if not (0 <= threshold <= 1 or threshold == STOP):
        raise ValueError(
          f"threshold {threshold:g} of patch size {size_name(size)}: give 0 "
          f"to 1, where all images go on, or {STOP:g}, where none does"
        )

  def __str__(self):
    """Text: "12 -(0.93)> 6 -(0.8)> 4"."""
    arrows = [f" -({t:.4g})> " for t in self.thresholds]
    names = map(size_name, self.sizes)
    return "".join(x for pair in zip(names, [*arrows, ""]) for x in pair)


def check_sizes(sizes: Sequence[tuple[int, int]]) -> None:
  """Refuses patch sizes that no cascade goes through.

  Raises:
    ValueError: there is none, or one is not smaller than the one before.
  """
  if not sizes:
    raise ValueError("a cascade has no patch size: give at least one")
  areas = list(map(math.prod, sizes))
  if any(a <= b for a, b in itertools.pairwise(areas)):
    raise ValueError(
      f"patch sizes {_names(sizes)}: a cascade goes from large patches to "
      "small ones, so give sizes of decreasing area"
    )


def goes_on(confidence: np.ndarray, threshold: float) -> np.ndarray:
  """Mask of the images that need a smaller patch size.

  Args:
    confidence: f32 `[n]`. NaN is no answer, so it goes on, except at `STOP`.
    threshold: of their size, as of a `Cascade`.

  Returns:
    bool `[n]`.
  """
  if threshold == STOP:
    return np.zeros(len(confidence), bool)
  # A sum of probabilities may be more than 1 by rounding.
  confidence = np.minimum(np.asarray(confidence, np.float32), 1)
  return ~(confidence > np.float32(threshold))


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Result of a cascade on images.

  Attributes:
    cascade: that saw them.
    answers: `[n]`, each of the size where its image stopped.
    stages: i32 `[n]`, which of the cascade's sizes that is.
  """

  cascade: Cascade
  answers: Answers
  stages: np.ndarray

  @property
  def reached(self) -> tuple[int, ...]:
    """Count of images seen at each size."""
    return tuple(
      int((self.stages >= k).sum()) for k in range(len(self.cascade.sizes))
    )

  def cost(self, costs: Mapping[tuple[int, int], float]) -> float:
    """Mean of an image, from the cost of an image at each patch size.

    An image pays for every size that sees it. Nothing is counted for what
    fills up a batch, nor for moving images together.
    """
    sizes = self.cascade.sizes
    seen = zip(sizes, self.reached, strict=True)
    return sum(costs[size] * n for size, n in seen) / len(self.stages)


def predict(
  cascade: Cascade, answers: Mapping[tuple[int, int], Answers]
) -> Outcome:
  """Result of a cascade, computed from each size's answers to all images.

  Args:
    answers: by patch size, `[n]` as gathered on the host.

  Raises:
    ValueError: a size's answers are missing, or those of other images.
  """
  parts = aligned(cascade.sizes, answers)
  alive = np.ones(len(parts[0]), bool)
  stages = np.zeros(len(parts[0]), np.int32)
  for part, threshold in zip(parts, cascade.thresholds):
    alive &= goes_on(part.confidence, threshold)
    stages += alive
  fields = {
    f.name: np.stack([getattr(part, f.name) for part in parts])
    for f in dataclasses.fields(Answers)
  }
  taken = {
    name: np.take_along_axis(x, stages[None], axis=0)[0]
    for name, x in fields.items()
  }
  return Outcome(cascade, Answers(**taken), stages)


def aligned(
  sizes: Sequence[tuple[int, int]], answers: Mapping[tuple[int, int], Answers]
) -> list[Answers]:
  """The answers of each size, which are to be on the same images.

  Raises:
    ValueError: a size has none, they are empty, or on other images.
  """
  for size in sizes:
    if size not in answers:
      raise ValueError(
        f"no answers at patch size {size_name(size)}, only at "
        f"{_names(answers) or 'none'}"
      )
  parts = [answers[size] for size in sizes]
  if not len(parts[0]):
    raise ValueError("there is no image to choose or to judge a cascade on")
  for size, part in zip(sizes, parts):
    if not np.array_equal(part.index, parts[0].index):
      raise ValueError(
        f"answers at patch size {size_name(size)} are on {len(part)} images, "
        f"those at {size_name(sizes[0])} on {len(parts[0])} others: give "
        "answers on the same images, in one order"
      )
  return parts


def paired_difference(ours: Answers, others: Answers) -> tuple[float, float]:
  """Top-1 of ours less that of others on the same images.

  Returns:
    The difference and its standard error, which is much smaller than that of
    either accuracy where both err on the same images.

  Raises:
    ValueError: they are on other images, or on fewer than two.
  """
  if len(ours) < 2 or not np.array_equal(ours.index, others.index):
    raise ValueError(
      f"answers on {len(ours)} and on {len(others)} images: give answers on "
      "the same images, two at least"
    )
  right = (ours.rank == 0).astype(np.float64) - (others.rank == 0)
  return float(right.mean()), float(right.std(ddof=1) / math.sqrt(len(right)))


def _names(sizes) -> str:
  return ", ".join(map(size_name, sizes))
