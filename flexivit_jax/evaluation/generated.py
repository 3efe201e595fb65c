"""How good generated images are, by the features of a classifier.

Published numbers of these kinds are in features of one Inception network, of
tens of thousands of images. With another classifier and fewer images they are
numbers of their own: compare them with each other alone.
"""

import dataclasses

import numpy as np

NEIGHBOURS = 3  # arXiv:1904.06991
NEAREST_REAL = 0.01  # share of real images that are called near to training
CHUNK = 4096  # training images that are compared at once


@dataclasses.dataclass(frozen=True)
class Generated:
  """What a classifier says of generated images.

  Attributes:
    asked_share: share that it assigns to the class which was asked for; None:
      none was.
    asked_share_by_class: the same of each class that was.
    frechet_distance: of its features from those of real images.
    real_frechet_distance: of one half of the real images from the other, which
      is what so few images cannot do better than; in expectation it is more
      than between all of them and others.
    precision, recall: shares of the generated images that lie among the real
      ones, and of the real ones among the generated (`precision_recall`).
    generated, real: numbers of images.
  """

  asked_share: float | None
  asked_share_by_class: dict[int, float]
  frechet_distance: float
  real_frechet_distance: float
  precision: float
  recall: float
  generated: int
  real: int


@dataclasses.dataclass(frozen=True)
class Copies:
  """How near images come to those of the training, pixel by pixel.

  Attributes:
    nearest: median over the generated images of the root mean square
      difference from the nearest training image, in levels of 0 to 255.
    real_nearest: the same of real images that were not trained on.
    nearer_share: share of the generated images that are nearer to a training
      image than the nearest hundredth of the real ones. Of images that have
      nothing to do with those of the training it is about a hundredth too.
    training: number of training images, and mirrored ones.
  """

  nearest: float
  real_nearest: float
  nearer_share: float
  training: int


def copies(
  generated: np.ndarray, real: np.ndarray, training: np.ndarray
) -> Copies:
  """Whether generated images are training images again.

  Args:
    generated, real, training: u8 `[n, h, w, c]`, each another n.
  """
  own, others = (_nearest(x, training) for x in (generated, real))
  return Copies(
    nearest=float(np.median(own)),
    real_nearest=float(np.median(others)),
    nearer_share=float((own < np.quantile(others, NEAREST_REAL)).mean()),
    training=len(training),
  )


def _nearest(images, training):
  """Root mean square difference from the nearest, `[n]`."""
  images, training = (x.reshape(len(x), -1) for x in (images, training))
  images = images.astype(np.float64)
  chunks = range(0, len(training), CHUNK)
  found = np.min(
    [
      _distances(images, training[i : i + CHUNK].astype(np.float64)).min(axis=1)
      for i in chunks
    ],
    axis=0,
  )
  return np.sqrt(found / images.shape[1])


def check_counts(
  generated: int, real: int, neighbours: int = NEIGHBOURS
) -> None:
  """Refuses numbers of images that are too few to have so many neighbours.

  Raises:
    ValueError: naming both.
  """
  if min(real, generated) <= neighbours:
    raise ValueError(
      f"{generated} generated and {real} real images: precision and recall "
      f"need more than {neighbours} of each"
    )


def judge(
  asked: np.ndarray | None,
  answers: np.ndarray,
  features: np.ndarray,
  real_features: np.ndarray,
) -> Generated:
  """Compares.

  Args:
    asked, answers: classes `[n]` of the generated images; asked None: none
      were.
    features, real_features: `[n, d]` and `[m, d]`.

  Raises:
    ValueError: as the measures.
  """
  precision, recall = precision_recall(real_features, features)
  share, by_class = None, {}
  if asked is not None:
    right = answers == asked
    share = float(right.mean())
    by_class = {
      int(c): float(right[asked == c].mean()) for c in np.unique(asked)
    }
  halves = real_features[::2], real_features[1::2]
  return Generated(
    asked_share=share,
    asked_share_by_class=by_class,
    frechet_distance=frechet_distance(real_features, features),
    real_frechet_distance=frechet_distance(*halves),
    precision=precision,
    recall=recall,
    generated=len(features),
    real=len(real_features),
  )


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
  """|mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)) with the covariances A and
  B: squared, of the normal distributions that fit best (arXiv:1706.08500).

  Args:
    a, b: features `[n, d]` and `[m, d]`, of at least two images each.

  Raises:
    ValueError: there are too few.
  """
  if min(len(a), len(b)) < 2:
    raise ValueError(
      f"{len(a)} and {len(b)} images: a Frechet distance needs 2 of each"
    )
  a, b = (np.asarray(x, np.float64) for x in (a, b))
  means = np.square(a.mean(0) - b.mean(0)).sum()
  x, y = (_centred(x) for x in (a, b))
  # (A B)^(1/2) has the trace of the singular values of A^(1/2) B^(1/2), which
  # are those of x y^T where A = x^T x and B = y^T y.
  roots = np.linalg.svd(x @ y.T, compute_uv=False).sum()
  return float(means + np.square(x).sum() + np.square(y).sum() - 2 * roots)


def _centred(x):
  """x with x^T x the covariance, of no more rows than columns."""
  x = (x - x.mean(0)) / np.sqrt(len(x) - 1)
  return np.linalg.qr(x, mode="r") if len(x) > x.shape[1] else x


def precision_recall(
  real: np.ndarray, generated: np.ndarray, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
  """Shares of the generated images within the real ones' manifold, and of the
  real ones within the generated ones' (Kynkaanniemi et al., arXiv:1904.06991).

  A manifold is all that lies no farther from one of its images than that one's
  k-th nearest neighbour among them.

  Args:
    real, generated: features `[n, d]` and `[m, d]`.
    neighbours: k.

  Raises:
    ValueError: there are too few images to have so many neighbours.
  """
  check_counts(len(generated), len(real), neighbours)
  real, generated = (np.asarray(x, np.float64) for x in (real, generated))
  across = _distances(generated, real)
  within_real = across <= _radii(real, neighbours)[None]
  within_generated = across.T <= _radii(generated, neighbours)[None]
  return (
    float(within_real.any(axis=1).mean()),
    float(within_generated.any(axis=1).mean()),
  )


def _radii(x, neighbours):
  # The nearest of all is the image itself.
  return np.partition(_distances(x, x), neighbours, axis=1)[:, neighbours]


def _distances(a, b):
  """Squared, `[n, m]`, but for rounding."""
  left, right = (np.square(x).sum(-1) for x in (a, b))
  return np.maximum(left[:, None] + right[None] - 2 * a @ b.T, 0)
