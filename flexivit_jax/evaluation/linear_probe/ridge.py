"""Few-shot accuracy of frozen features: ridge regression in closed form.

The protocol of big_vision: evaluators/fewshot_lsr.py, with the numbers of
configs/common_fewshot.py.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from flexivit_jax.core.text import cut, listed

# big_vision's: images of each class, draws, the penalty of the squared
# weights, the column of ones times so much (its weight is the bias, which the
# penalty then hardly touches), and what is added to each deviation.
SHOTS = (1, 5, 10, 25)
SEEDS = 3
PENALTY = 2.0**10
BIAS = 100.0
EPSILON = 1e-5

# Below, rounding of the largest eigenvalue (n * BIAS**2) would count as signal.
LEAST_PENALTY = 1e-6
# Rows that are classified at once: 64 MiB of scores of 1,000 classes.
_ROWS = 8192


def counted(count: int, noun: str) -> str:
  """ "1 shot", "5 shots"."""
  return f"{count} {noun}{'' if count == 1 else 's'}"


def draw(
  labels: np.ndarray, classes: Sequence[str], shots: int, seed: int
) -> np.ndarray:
  """So many images of each class, none twice.

  Args:
    labels: `[n]`, whole numbers from 0 on.
    classes: names, by label.

  Returns:
    i64 `[classes, shots]`, indices into `labels`. The first columns are the
    draw of fewer shots with the same seed.

  Raises:
    ValueError: a class has too few images; naming the one with the fewest.
  """
  counts = np.bincount(labels, minlength=len(classes))
  if counts.min() < shots:
    fewest = int(counts.argmin())
    too_few = np.flatnonzero(counts < shots)
    others = ""
    if len(too_few) == 2:
      others = ", and 1 other class has too few"
    elif len(too_few) > 2:
      others = f", and {len(too_few) - 1} other classes have too few"
    most = f"at most {counts.min()}, or " if counts.min() else ""
    raise ValueError(
      f"{counted(shots, 'shot')}, but class "
      f"{cut(classes[fewest], 100)!r} has "
      f"{counted(counts.min(), 'training image')}{others}: "
      f"give {most}data with more"
    )
  rng = np.random.default_rng(seed)
  return np.stack(
    [
      rng.permutation(np.flatnonzero(labels == label))[:shots]
      for label in range(len(classes))
    ]
  )


@dataclasses.dataclass(frozen=True)
class Linear:
  """A linear classifier: the class is that of the highest score.

  Attributes:
    kernel: f64 `[d, classes]`.
    bias: f64 `[classes]`.
  """

  kernel: np.ndarray
  bias: np.ndarray

  def accuracy(self, features: np.ndarray, labels: np.ndarray) -> float:
    """Share of features `[n, d]` whose highest score is their label's; of
    equal scores the first class counts."""
    right = 0
    for start in range(0, len(labels), _ROWS):
      own = slice(start, start + _ROWS)
      scores = features[own].astype(np.float64) @ self.kernel + self.bias
      right += int((scores.argmax(axis=1) == labels[own]).sum())
    return right / len(labels)


@dataclasses.dataclass(frozen=True)
class Ridge:
  """Least squares with any penalty of the squared weights.

  With X the features, standardised, and a column of `BIAS`; Y the targets, 1
  for the right class and -1 for the others; the weights are

    W = argmin |X W - Y|^2 + penalty |W|^2
      = left diag(1 / (eigenvalues + penalty)) right

  from one eigendecomposition: of X^T X, or of X X^T where there are fewer
  images than columns (the dual form; the two agree by the identity
  (X^T X + a)^-1 X^T = X^T (X X^T + a)^-1).

  Attributes:
    mean, std: f64 `[d]`, of the features; `EPSILON` is in the latter.
    eigenvalues: f64 `[r]`, r the smaller of n and d + 1.
    left: f64 `[d + 1, r]`.
    right: f64 `[r, classes]`.
  """

  mean: np.ndarray
  std: np.ndarray
  eigenvalues: np.ndarray
  left: np.ndarray
  right: np.ndarray

  def at(self, penalty: float) -> Linear:
    """The classifier of a penalty, on features as they come.

    Raises:
      ValueError: the penalty is not finite, or too small.
    """
    check_penalty(penalty)
    scaled = self.right / (self.eigenvalues + penalty)[:, None]
    weights = self.left @ scaled
    kernel = weights[:-1] / self.std[:, None]
    return Linear(kernel, BIAS * weights[-1] - self.mean @ kernel)


def check_penalty(penalty: float) -> None:
  """Refuses a penalty that does not make the weights unique.

  Raises:
    ValueError: naming the least.
  """
  if not LEAST_PENALTY <= penalty < np.inf:
    raise ValueError(
      f"penalty {penalty:g}: give a finite number of at least {LEAST_PENALTY:g}"
    )


def ridge(
  features: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> Ridge:
  """Fit a classifier for any penalty.

  Args:
    features: `[n, d]`, of any floating type; computed in float64.
    labels: `[n]`, of 0 to classes - 1.
    classes: names, by label.

  Raises:
    ValueError: a class has no image, or a feature is not finite.
  """
  counts = np.bincount(labels, minlength=len(classes))
  if not counts.all():
    missing = [classes[i] for i in np.flatnonzero(counts == 0)]
    raise ValueError(f"no training image of {listed(missing)}")
  x = features.astype(np.float64)
  if bad := int((~np.isfinite(x).all(axis=1)).sum()):
    raise ValueError(f"features of {bad} of {len(x)} images are not finite")
  mean, std = x.mean(axis=0), x.std(axis=0) + EPSILON
  x = np.pad((x - mean) / std, ((0, 0), (0, 1)), constant_values=BIAS)
  if len(x) < x.shape[1]:
    eigenvalues, vectors = np.linalg.eigh(x @ x.T)
    left = x.T @ vectors
    right = _targets(vectors, labels, len(classes))
  else:
    eigenvalues, left = np.linalg.eigh(x.T @ x)
    right = left.T @ _targets(x, labels, len(classes))
  # Those of a Gram matrix are not below 0 but by rounding.
  return Ridge(mean, std, np.maximum(eigenvalues, 0), left, right)


def _targets(x, labels, num_classes):
  """x^T Y, `[columns, classes]`, without Y: it would be large."""
  order = np.argsort(labels, kind="stable")
  starts = np.searchsorted(labels[order], np.arange(num_classes))
  sums = np.add.reduceat(x[order], starts).T  # each class has an image
  return 2 * sums - x.sum(axis=0)[:, None]


@dataclasses.dataclass(frozen=True)
class Images:
  """Features of images.

  Attributes:
    features: `[n, d]`.
    labels: `[n]`.
  """

  features: np.ndarray
  labels: np.ndarray

  def at(self, rows: np.ndarray) -> "Images":
    return Images(self.features[rows], self.labels[rows])


@dataclasses.dataclass(frozen=True)
class Accuracy:
  """Accuracy after training on one number of shots.

  Attributes:
    shots: images of each class.
    penalty: of the squared weights.
    top1: share of the test images, for each draw.
  """

  shots: int
  penalty: float
  top1: tuple[float, ...]

  @property
  def mean(self) -> float:
    return float(np.mean(self.top1))

  @property
  def standard_error(self) -> float | None:
    """Standard error of the mean over draws; None: one draw.

    It leaves out that the test images are a sample too.
    """
    if len(self.top1) < 2:
      return None
    return float(np.std(self.top1, ddof=1) / len(self.top1) ** 0.5)


def measure(
  draws: Sequence[Images],
  test: Images,
  classes: Sequence[str],
  *,
  shots: int,
  penalties: Sequence[float],
  validation: Images | None = None,
) -> Accuracy:
  """Accuracy on all test images after training on each draw.

  Args:
    draws: training images, the draw of each seed.
    shots: images of each class in a draw.
    penalties: one, or several to choose from: the one of the highest accuracy
      on `validation`, mean over draws; of equal ones the largest.
    validation: other images than the test's, where there are several.

  Raises:
    ValueError: as `ridge` and `Ridge.at`; several penalties and no validation.
  """
  if len(penalties) > 1 and validation is None:
    raise ValueError(
      f"{len(penalties)} penalties and no validation images to choose on"
    )
  fits = [ridge(x.features, x.labels, classes) for x in draws]
  best = penalties[0]
  if len(penalties) > 1:
    reached = {
      penalty: np.mean([_accuracy(fit, penalty, validation) for fit in fits])
      for penalty in penalties
    }
    best = max(reached, key=lambda penalty: (reached[penalty], penalty))
  top1 = tuple(_accuracy(fit, best, test) for fit in fits)
  return Accuracy(shots, best, top1)


def _accuracy(fit, penalty, images):
  return fit.at(penalty).accuracy(images.features, images.labels)
