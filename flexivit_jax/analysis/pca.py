"""Patch features as colours: their three principal components."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from flexivit_jax.analysis.figures import bare

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


def draw_colours(
  images: Sequence[np.ndarray],
  colours: Mapping[str, Sequence[np.ndarray]],
  title: str,
) -> Figure:
  """A row for each image: the image, then its patches at each patch size.

  Args:
    images: u8 `[h, w, 3]`.
    colours: name of the size to `[rows, cols, 3]` for each image, in [0, 1].
  """
  columns = 1 + len(colours)
  figure = Figure(
    figsize=(0.4 + 1.5 * columns, 0.7 + 1.5 * len(images)),
    layout="constrained",
  )
  grid = figure.subplots(len(images), columns, squeeze=False)
  for row, image in zip(grid, images, strict=True):
    row[0].imshow(image)
  for column, (name, shown) in enumerate(colours.items(), start=1):
    grid[0, column].set_title(f"{name} px", fontsize="medium")
    for axes, image, values in zip(grid[:, column], images, shown, strict=True):
      h, w = image.shape[:2]
      # A patch that is missing is white.
      axes.imshow(
        np.nan_to_num(values, nan=1.0),
        extent=(-0.5, w - 0.5, h - 0.5, -0.5),
        interpolation="nearest",
      )
  grid[0, 0].set_title("image", fontsize="medium")
  for axes in grid.flat:
    bare(axes)
  figure.suptitle(title, fontsize="medium")
  return figure
