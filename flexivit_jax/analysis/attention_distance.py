"""Mean attention distance: how far a head looks (ViT, figure 11)."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import colors, ticker
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from flexivit_jax.analysis.figures import SEQUENTIAL
from flexivit_jax.core.tokens import Tokens
from flexivit_jax.evaluation.report.figures.style import COLOURS
from flexivit_jax.nn import pooling


@jax.jit
def attention_distance(weights: jax.Array, tokens: Tokens) -> jax.Array:
  """Mean distance, in pixels, between a patch and what it attends to.

  For each query sum_k A[q, k] |q - k|, distances between centres of patches,
  averaged over the queries of an image (arXiv:2010.11929, appendix D.7).
  Class and register tokens are left out as queries and as keys, and what
  remains of a row is scaled to sum to 1 again. The paper does not say how it
  treats the class token. Being in pixels, it compares patch sizes: attention
  that is uniform over an image of side s has 0.52 s at any of them.

  Args:
    weights: `[b, h, l', l']`, of one block; the last l tokens are patches.
    tokens: on grids or packed. Pixels are those of the image that the model
      is given, after it was resized.

  Returns:
    `[b, e, h]`, at least float32; NaN for an image slot that is empty and for
    a head that attends to no patch.
  """
  l = tokens.patches.shape[1]
  weights = weights[:, :, -l:, -l:]
  sizes = jnp.asarray(tokens.patch_sizes, weights.dtype)
  index = 0 if tokens.size_index is None else tokens.size_index
  patch_hw = sizes[index]
  if tokens.size_index is None:
    patch_hw = patch_hw[None, None]
  centres = (tokens.coords.astype(weights.dtype) + 0.5) * patch_hw
  steps = centres[:, :, None] - centres[:, None]
  distances = jnp.sqrt(jnp.square(steps).sum(axis=-1))
  kept = weights.sum(axis=-1)
  far = (weights * distances[:, None]).sum(axis=-1)
  # A row that attends to tokens in front alone says nothing of distances.
  says = kept > 0
  mean = jnp.where(says, far / jnp.where(says, kept, 1), 0)

  def of_images(x):
    x = jnp.moveaxis(x, 1, 2)
    return pooling.average(x, tokens.segments, tokens.num_images)

  # A ratio of averages: over those queries alone that say something.
  return of_images(mean) / of_images(says.astype(mean.dtype))


def mean_of_images(distances: list[np.ndarray]) -> np.ndarray:
  """`[depth, h]` for each image to their mean; NaN is left out."""
  return np.nanmean(np.stack(distances), axis=0)


def draw_distances(
  distances: Mapping[str, np.ndarray], uniform: Mapping[str, float]
) -> Figure:
  """One panel per patch size: a dot for each head, their mean by depth.

  Args:
    distances: name of the size to `[depth, h]`, in pixels.
    uniform: the same of attention that is uniform over an image.
  """
  figure = Figure(
    figsize=(max(1.2 + 2.6 * len(distances), 4.8), 3.6), layout="constrained"
  )
  panels = figure.subplots(1, len(distances), sharey=True, squeeze=False)[0]
  for axes, (name, values) in zip(panels, distances.items(), strict=True):
    depth, heads = values.shape
    blocks = np.arange(depth)
    axes.plot(
      np.repeat(blocks, heads),
      values.ravel(),
      "o",
      color=COLOURS[0],
      markersize=4,
      alpha=0.7,
      label="one head",
    )
    axes.plot(
      blocks, values.mean(axis=1), "-", color=COLOURS[1], label="mean of heads"
    )
    axes.axhline(
      uniform[name], linestyle="--", color="0.4", label="uniform attention"
    )
    axes.set_title(f"patches of {name} px", fontsize="medium")
    axes.set_xlabel("block")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
  panels[0].set_ylabel("mean attention distance (px)")
  highest = max(*uniform.values(), *(x.max() for x in distances.values()))
  panels[0].set_ylim(0, 1.1 * highest)
  handles, labels = panels[0].get_legend_handles_labels()
  figure.legend(
    handles, labels, loc="outside lower center", ncols=3, fontsize="small"
  )
  return figure


def draw_heat(
  images: Sequence[np.ndarray],
  heat: Sequence[np.ndarray],
  title: str,
  columns: int = 4,
) -> Figure:
  """Each image, and below it what it gets, on one scale.

  Args:
    images: u8 `[h, w, 3]`.
    heat: `[rows, cols]` each: shares, drawn as multiples of the mean share of
      a patch.
  """
  heat = [relative(x) for x in heat]
  lowest, highest = min(map(np.nanmin, heat)), max(map(np.nanmax, heat))
  # Where all get the same, one colour from the middle of the scale.
  norm = colors.Normalize(min(lowest, 0.95), max(highest, 1.05))
  columns = min(columns, len(images))
  rows = -(-len(images) // columns)
  figure = Figure(
    figsize=(1.2 + 1.6 * columns, 0.5 + 3.2 * rows), layout="constrained"
  )
  grid = figure.subplots(2 * rows, columns, squeeze=False)
  for axes in grid.flat:
    axes.set_axis_off()
  for i, (image, values) in enumerate(zip(images, heat, strict=True)):
    above, below = (
      grid[2 * (i // columns) + half, i % columns] for half in (0, 1)
    )
    above.imshow(image)
    over(below, values, image.shape[:2], norm)
  figure.suptitle(title, fontsize="medium")
  figure.colorbar(
    ScalarMappable(norm, SEQUENTIAL),
    ax=grid,
    panchor=False,
    shrink=0.6,
    label="share, as multiple of the mean patch's",
  )
  return figure


def relative(shares: np.ndarray) -> np.ndarray:
  """Shares of patches as multiples of their mean."""
  return shares / np.nanmean(shares)


def over(axes, values, image_hw, norm, alpha=1.0) -> None:
  """Values of patches `[rows, cols]` where the patches are in an image."""
  h, w = image_hw
  axes.imshow(
    values,
    cmap=SEQUENTIAL,
    norm=norm,
    alpha=alpha,
    extent=(-0.5, w - 0.5, h - 0.5, -0.5),
    interpolation="nearest",
  )
