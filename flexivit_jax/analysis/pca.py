"""Patch features as colours: their three principal components."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from flexivit_jax.analysis import images
from flexivit_jax.analysis.activations import check_block
from flexivit_jax.analysis.analysis import (
  Analysis,
  Findings,
  Given,
  Option,
  Refusal,
  refusing,
  whole,
)
from flexivit_jax.analysis.figures import bare, over
from flexivit_jax.core.sizes import size_name

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
  features: Sequence[np.ndarray], count: int = 3
) -> Components:
  """Of the patches of all images together, in float64.

  Every image counts alike, however many patches it has, so that an image cut
  small does not outweigh the same image cut large.

  Args:
    features: `[rows, cols, d]` each, as `images.to_images` gives them; patches
      that are NaN are left out.
    count: of components.

  Raises:
    ValueError: fewer than `count` + 1 patches, or channels than `count`.
  """
  flat = [x.reshape(-1, x.shape[-1]).astype(np.float64) for x in features]
  flat = [x[np.isfinite(x).all(axis=-1)] for x in flat]
  rows = np.concatenate(flat)
  n, d = rows.shape
  if d < count or n <= count:
    raise ValueError(
      f"{count} components of {n} patches with {d} features: give more than "
      f"{count} patches, and a model at least {count} wide"
    )
  weights = np.concatenate([np.full(len(x), 1 / len(x)) for x in flat])
  weights /= weights.sum()
  mean = weights @ rows
  centred = rows - mean
  covariance = (centred * weights[:, None]).T @ centred
  variances, directions = np.linalg.eigh(covariance)
  directions = directions.T[::-1][:count]
  largest = np.abs(directions).argmax(axis=1)
  directions *= np.sign(directions[np.arange(count), largest])[:, None]
  shares = variances[::-1][:count] / variances.sum()
  return Components(mean, directions, shares)


def colours(features: Sequence[np.ndarray]) -> list[np.ndarray]:
  """Red, green and blue by the first three components of all images.

  Args:
    features: as for `principal_components`; several patch sizes at once get
      colours that can be compared.

  Returns:
    f64 `[rows, cols, 3]` in [0, 1] for each image: each component from its 1st
    to its 99th percentile. NaN where a patch is missing.
  """
  components = principal_components(features)
  projected = [components.project(x) for x in features]
  values = np.concatenate([x.reshape(-1, 3) for x in projected])
  low, high = np.nanpercentile(values, _PERCENTILES, axis=0)
  width = np.where(high > low, high - low, 1)
  return [np.clip((x - low) / width, 0, 1) for x in projected]


def draw(
  pixels: Sequence[np.ndarray],
  colours: Mapping[str, Sequence[np.ndarray]],
  title: str,
) -> Figure:
  """A row for each image: the image, then its patches at each patch size.

  Args:
    pixels: u8 `[h, w, 3]`.
    colours: name of the size to `[rows, cols, 3]` for each image, in [0, 1].
  """
  columns = 1 + len(colours)
  figure = Figure(
    figsize=(0.4 + 1.5 * columns, 0.7 + 1.5 * len(pixels)),
    layout="constrained",
  )
  grid = figure.subplots(len(pixels), columns, squeeze=False)
  for row, image in zip(grid, pixels, strict=True):
    row[0].imshow(image)
  for column, (name, shown) in enumerate(colours.items(), start=1):
    grid[0, column].set_title(f"{name} px", fontsize="medium")
    for axes, image, values in zip(grid[:, column], pixels, shown, strict=True):
      # A patch that is missing is white.
      over(axes, np.nan_to_num(values, nan=1.0), image.shape[:2])
  grid[0, 0].set_title("image", fontsize="medium")
  for axes in grid.flat:
    bare(axes)
  figure.suptitle(title, fontsize="medium")
  return figure


def run(subject: images.Subject, options) -> Findings:
  model, block = subject.model, options["block"]
  if block is not None:
    with refusing("--block"):
      check_block(model, block)
  if model.size.width < 3:
    raise Refusal(
      f"--checkpoint: 3 components of features {model.size.width} wide"
    )
  features = {
    size_name(size): subject.of_images(
      functools.partial(_features, block), size, ("outputs", "patches")
    )
    for size in subject.sizes
  }
  every = [x for of_size in features.values() for x in of_size]
  with refusing("--images"):
    shares = 100 * principal_components(every).shares
  drawn = iter(colours(every))
  shown = {name: [next(drawn) for _ in x] for name, x in features.items()}
  where = "the final norm"
  if block is not None:
    where = f"block {block % model.size.depth}"
  # With a budget, images of larger patches have more pixels.
  largest = max(subject.sizes, key=math.prod)
  title = f"Patch features after {where}: three components as colours"
  percent = ", ".join(f"{x:.0f}" for x in shares)
  return Findings(
    {"pca": draw(subject.pixels(largest), shown, title)},
    {
      f"colours_{name}_image_{number}": np.float32(x)
      for name, of_size in shown.items()
      for number, x in zip(subject.numbers, of_size)
    },
    (str(subject), f"{title}; they have {percent} % of the variance"),
  )


def _features(block, found, tokens):
  if block is None:
    x = found.outputs.encoded
  else:
    # `patches` starts with what the first block gets.
    x = found.patches[block + 1 if block >= 0 else block]
  return images.to_images(tokens, np.asarray(x, np.float32))


ANALYSIS = Analysis(
  "pca",
  "patch features as colours: three components over all images",
  Given.IMAGES,
  (
    images.count(8, most=images.MOST_DRAWN),
    images.PATCH_SIZES,
    Option(
      "block",
      "features after this block, from 0; default: after the last one and the "
      "final norm",
      parse=whole(),
    ),
  ),
  run,
)
