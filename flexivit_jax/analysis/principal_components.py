"""Patch features as colours: their three principal components."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Of the values of a component: what lies outside is drawn as its end. A few
# patches of large norm would leave all others one colour.
_PERCENTILES = (1, 99)


class Components(NamedTuple):
  """Attributes:
  mean: f64 `[d]`.
  directions: f64 `[k, d]`, of length 1, by falling variance; of each the entry
    that is largest by size is positive.
  shares: f64 `[k]`, of the whole variance.
  """

  mean: np.ndarray
  directions: np.ndarray
  shares: np.ndarray

  def project(self, features: np.ndarray) -> np.ndarray:
    """`[..., d]` to `[..., k]`."""
    return (features - self.mean) @ self.directions.T


def principal_components(
  images: Sequence[np.ndarray], count: int = 3
) -> Components:
  """Of the patches of all images together, in float64.

  Every image counts alike, however many patches it has, so that an image cut
  small does not outweigh the same image cut large.

  Args:
    images: `[rows, cols, d]` each, as `layout.to_images` gives them; patches
      that are NaN are left out.
    count: of components.

  Raises:
    ValueError: fewer than `count` + 1 patches, or channels than `count`.
  """
  flat = [x.reshape(-1, x.shape[-1]).astype(np.float64) for x in images]
  flat = [x[np.isfinite(x).all(axis=-1)] for x in flat]
  features = np.concatenate(flat)
  n, d = features.shape
  if d < count or n <= count:
    raise ValueError(
      f"{count} components of {n} patches with {d} features: give more than "
      f"{count} patches, and a model at least {count} wide"
    )
  weights = np.concatenate([np.full(len(x), 1 / len(x)) for x in flat])
  weights /= weights.sum()
  mean = weights @ features
  centred = features - mean
  covariance = (centred * weights[:, None]).T @ centred
  variances, directions = np.linalg.eigh(covariance)
  directions = directions.T[::-1][:count]
  largest = np.abs(directions).argmax(axis=1)
  directions *= np.sign(directions[np.arange(count), largest])[:, None]
  shares = variances[::-1][:count] / variances.sum()
  return Components(mean, directions, shares)


def colours(images: Sequence[np.ndarray]) -> list[np.ndarray]:
  """Red, green and blue by the first three components of all images.

  Args:
    images: as for `principal_components`; several patch sizes at once get
      colours that can be compared.

  Returns:
    f64 `[rows, cols, 3]` in [0, 1] for each image: each component from its 1st
    to its 99th percentile. NaN where a patch is missing.
  """
  components = principal_components(images)
  projected = [components.project(x) for x in images]
  values = np.concatenate([x.reshape(-1, 3) for x in projected])
  low, high = np.nanpercentile(values, _PERCENTILES, axis=0)
  width = np.where(high > low, high - low, 1)
  return [np.clip((x - low) / width, 0, 1) for x in projected]
