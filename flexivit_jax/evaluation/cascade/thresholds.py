"""Cascades chosen on validation data: all that are worth their cost.

A cascade's accuracy and cost follow from what each patch size answers to each
image, so that none has to be run to be judged. For k sizes with m candidate
thresholds each, images are counted in a histogram of k - 1 axes by the first
threshold that lets them go on; its cumulative sums are the numbers of images,
and of right answers, that reach each size, for all (m + 1)^(k - 1) cascades at
once. So the search is exhaustive.

Candidates are the confidences that occur, as nothing changes between two of
them. For two sizes all are tried, which is exact; for more at most `MAX_CELLS`
combinations, so that with more than 255 images three sizes have thresholds at
quantiles. Over n images this takes O(k n + k (m + 1)^(k - 1)) for each choice
of k sizes.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from flexivit_jax.core.sizes import size_name
from flexivit_jax.evaluation.cascade.cascade import (
  STOP,
  Cascade,
  aligned,
  check_sizes,
)
from flexivit_jax.tasks.predictions import Answers

# Most sizes of a cascade.
MAX_STAGES = 3
# Combinations of thresholds to try for one choice of three or more sizes.
MAX_CELLS = 2**16


@dataclasses.dataclass(frozen=True)
class Choice:
  """A cascade, and what it did on the data that it was chosen on.

  Attributes:
    cascade: itself.
    top1: share of right answers. Chosen as the best of many, it is a little
      higher than on other data.
    cost: mean of an image, in the unit of the costs that were given.
  """

  cascade: Cascade
  top1: float
  cost: float


def front(
  sizes: Sequence[tuple[int, int]],
  answers: Mapping[tuple[int, int], Answers],
  costs: Mapping[tuple[int, int], float],
) -> tuple[Choice, ...]:
  """Cascades than which none is both cheaper and at least as accurate.

  Single sizes are among the candidates, and so is leaving sizes out. Of equals
  the one with fewer sizes is taken, then with larger patches, then with lower
  thresholds.

  Args:
    sizes: of decreasing area.
    answers: by size, on the same images.
    costs: by size, of one image: multiply-adds, seconds, ...

  Returns:
    By rising cost and rising accuracy.

  Raises:
    ValueError: the sizes make no cascade, the answers are not on the same
      images, or a cost is no positive number.
  """
  check_sizes(sizes)
  parts = dict(zip(sizes, aligned(sizes, answers)))
  for size in sizes:
    if not 0 < costs.get(size, math.nan) < math.inf:
      raise ValueError(
        f"cost {costs.get(size)} of an image at patch size "
        f"{size_name(size)}: give a positive number"
      )
  candidates = []
  for count in range(1, min(MAX_STAGES, len(sizes)) + 1):
    for chosen in itertools.combinations(sizes, count):
      own = [parts[size] for size in chosen]
      grid = _Grid.of(own)
      right = grid.right(own)
      cost = grid.cost([costs[size] for size in chosen])
      for at in _undominated(cost.ravel(), right.ravel()):
        place = np.unravel_index(at, cost.shape)
        cascade = Cascade(chosen, grid.thresholds(place))
        candidates.append((cost[place], right[place], cascade))
  cost, right, cascades = zip(*candidates)
  n = len(parts[sizes[0]])
  return tuple(
    Choice(cascades[i], float(right[i] / n), float(cost[i] / n))
    for i in _undominated(np.array(cost), np.array(right))
  )


def for_accuracy(choices: Sequence[Choice], target: float) -> Choice:
  """The cheapest of a front with at least this top-1, from 0 to 1.

  Raises:
    ValueError: none has, naming the most that there is.
  """
  if not 0 <= target <= 1:
    raise ValueError(f"target {target:g}: give a share of images, 0 to 1")
  for choice in choices:
    if choice.top1 >= target:
      return choice
  best = choices[-1]
  raise ValueError(
    f"no cascade reaches {100 * target:.4g} % on its validation data: the most "
    f"is {100 * best.top1:.4g} %, by {best.cascade}"
  )


@dataclasses.dataclass(frozen=True)
class _Grid:
  """All combinations of thresholds of a cascade, as axes of arrays.

  Attributes:
    values: f32 `[m_k]` of each size but the last, rising: its thresholds after
      `STOP`, so that its axis has m_k + 1 places.
    places: i64 `[n]` of each size but the last, 1 to m_k: the first place on
      the axis where an image goes on.
    images: n.
  """

  values: tuple[np.ndarray, ...]
  places: tuple[np.ndarray, ...]
  images: int

  @classmethod
  def of(cls, parts: Sequence[Answers]) -> "_Grid":
    axes = len(parts) - 1
    values, places = [], []
    for part in parts[:-1]:
      # As `goes_on` sees them; NaN always goes on.
      confidence = np.minimum(np.asarray(part.confidence, np.float32), 1)
      confidence = np.nan_to_num(confidence, nan=0.0)
      own = np.unique(confidence)
      if axes > 1:
        most = int(MAX_CELLS ** (1 / axes) + 1e-9) - 1
        own = _thin(own, confidence, most)
      values.append(own)
      places.append(1 + np.searchsorted(own, confidence, side="left"))
    return cls(tuple(values), tuple(places), len(parts[0]))

  def thresholds(self, place: Sequence[int]) -> tuple[float, ...]:
    return tuple(
      float(values[i - 1]) if i else STOP
      for values, i in zip(self.values, place, strict=True)
    )

  def cost(self, costs: Sequence[float]) -> np.ndarray:
    """Sum over images, for all thresholds."""
    ones = np.ones(self.images, bool)
    total = 0.0
    for k, cost in enumerate(costs):
      total = total + cost * self._passing(ones, k).astype(np.float64)
    return total

  def right(self, parts: Sequence[Answers]) -> np.ndarray:
    """Images that stop with a right answer, for all thresholds."""
    total = np.int64(0)
    for k, part in enumerate(parts):
      right = part.rank == 0
      total = total + self._passing(right, k)
      if k < len(self.values):
        total = total - self._passing(right, k + 1)
    return total

  def _passing(self, which: np.ndarray, k: int) -> np.ndarray:
    """Count of these images that the first k thresholds all let go on."""
    lengths = [len(values) + 1 for values in self.values]
    flat = np.zeros(self.images, np.int64)
    for length, place in zip(lengths[:k], self.places[:k]):
      flat = flat * length + place
    cells = math.prod(lengths[:k])
    counts = np.bincount(flat[which], minlength=cells).reshape(lengths[:k])
    for axis in range(k):
      counts = counts.cumsum(axis=axis)
    # Further thresholds change nothing.
    return counts.reshape((*lengths[:k], *(1 for _ in lengths[k:])))


def _thin(values, confidence, most) -> np.ndarray:
  """At most so many of the values, at quantiles of the confidence."""
  if len(values) <= most:
    return values
  shares = np.arange(1, most + 1) / most
  # The last is the highest, so that each image goes on at some place.
  return np.unique(np.quantile(confidence, shares, method="higher"))


def _undominated(cost: np.ndarray, right: np.ndarray) -> Iterator[int]:
  """Places of the Pareto front by rising cost; the first of equals."""
  best = -1
  # By cost, then the most right ones, then as they come (lexsort is stable).
  for i in np.lexsort((-right, cost)).tolist():
    if right[i] > best:
      best = right[i]
      yield i
