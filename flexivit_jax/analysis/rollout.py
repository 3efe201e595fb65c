"""Attention rollout: how much of each token reaches another one.

Abnar and Zuidema, arXiv:2005.00928; ViT, arXiv:2010.11929, appendix D.8.
"""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import colors
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from flexivit_jax.analysis import images
from flexivit_jax.analysis.activations import (
  Activations,
  attention_weights,
  probe_weights,
)
from flexivit_jax.analysis.analysis import Analysis, Findings, Given, Option
from flexivit_jax.analysis.figures import SEQUENTIAL, over
from flexivit_jax.core.sizes import size_name
from flexivit_jax.core.tokens import Tokens
from flexivit_jax.models.vit import ViT
from flexivit_jax.nn import pooling

READERS = {
  pooling.ClassToken: "the class token",
  pooling.Gap: "the mean of the patches",
  pooling.Map: "the probe of the MAP head",
}


def rollout(layers: Iterable[jax.Array], *, residual: float = 0.5) -> jax.Array:
  """The product of all layers' attention, averaged over heads.

  Args:
    layers: weights of each block, the first one first, `[b, h, l, l]`.
    residual: share of a block's own input in its output: each matrix is
      (1 - residual) A + residual I. 0.5 is Abnar and Zuidema's; 0 is the
      product of the attention alone, as the ViT paper's text has it.

  Returns:
    `[b, l, l]`: row q says which tokens of the input the token q is made of.
    Rows sum to 1.

  Raises:
    ValueError: residual is not in 0 to 1, or there are no layers.
  """
  if not 0 <= residual <= 1:
    raise ValueError(f"residual is {residual:g}: give 0 to 1")
  product = None
  for weights in layers:
    product = _step(weights, product, residual)
  if product is None:
    raise ValueError("there are no layers to multiply")
  return product


@jax.jit
def _step(weights, before, residual):
  mean = weights.mean(axis=1)
  same = jnp.eye(mean.shape[-1], dtype=mean.dtype)[None]
  matrix = (1 - residual) * mean + residual * same
  if before is None:
    return matrix
  highest = jax.lax.Precision.HIGHEST
  return jnp.einsum("bqk,bkt->bqt", matrix, before, precision=highest)


def read_by_pool(
  model: ViT, found: Activations, tokens: Tokens, *, residual: float = 0.5
) -> jax.Array:
  """Which patches an image's pooled vector is made of, by rollout.

  The rollout's rows of what the head reads: the class token, or the mean of
  an image's patches, or the attention of the MAP head's probe, averaged over
  its heads.

  Args:
    found: with attentions, segments and, for a MAP head, probe.
    residual: as in `rollout`.

  Returns:
    `[b, e, l]`, of patches alone; sums to 1 less what class and register
    tokens have; 0 for an empty image slot, whose tokens in front attend to each
    other alone.
  """
  weights = (
    attention_weights(each, found.segments, found.segments)
    for each in found.attentions
  )
  matrix = rollout(weights, residual=residual)
  l, e = tokens.patches.shape[1], tokens.num_images
  front = matrix.shape[1] - l
  match model.pool:
    case pooling.ClassToken():
      rows = matrix[:, : front : front // e]
    case pooling.Gap():
      rows = pooling.average(matrix[:, front:], tokens.segments, e)
    case pooling.Map():
      probe = probe_weights(found, tokens).mean(axis=1)
      rows = jnp.einsum(
        "bel,blt->bet",
        probe,
        matrix[:, front:],
        precision=jax.lax.Precision.HIGHEST,
      )
  return rows[:, :, front:]


def draw(
  pixels: Sequence[np.ndarray],
  heat: Sequence[np.ndarray],
  title: str,
  columns: int = 4,
) -> Figure:
  """Each image, and below it what it gets, on one scale.

  Args:
    pixels: u8 `[h, w, 3]`.
    heat: `[rows, cols]` each: shares, drawn as multiples of the mean share of
      a patch.
  """
  heat = [relative(x) for x in heat]
  lowest, highest = min(map(np.nanmin, heat)), max(map(np.nanmax, heat))
  # Where all get the same, one colour from the middle of the scale.
  norm = colors.Normalize(min(lowest, 0.95), max(highest, 1.05))
  columns = min(columns, len(pixels))
  rows = -(-len(pixels) // columns)
  figure = Figure(
    figsize=(1.2 + 1.6 * columns, 0.5 + 3.2 * rows), layout="constrained"
  )
  grid = figure.subplots(2 * rows, columns, squeeze=False)
  for axes in grid.flat:
    axes.set_axis_off()
  for i, (image, values) in enumerate(zip(pixels, heat, strict=True)):
    above, below = (
      grid[2 * (i // columns) + half, i % columns] for half in (0, 1)
    )
    above.imshow(image)
    over(below, values, image.shape[:2], cmap=SEQUENTIAL, norm=norm)
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


def run(subject: images.Subject, options) -> Findings:
  model, (size,) = subject.model, subject.sizes
  residual = options["residual"]

  def by_image(found, tokens):
    read = np.asarray(read_by_pool(model, found, tokens, residual=residual))
    own = np.zeros(tokens.patches.shape[:2], read.dtype)
    for row, slot, places in images.places(tokens):
      own[row, places] = read[row, slot, places]
    return images.to_images(tokens, own)

  heat = subject.of_images(by_image, size, ("attentions", "probe", "segments"))
  title = (
    f"Rollout to {READERS[type(model.pool)]}, patches of {size_name(size)} px, "
    f"residual {residual:g}"
  )
  ratios = [relative(x) for x in heat]
  return Findings(
    {"rollout": draw(subject.pixels(size), heat, title)},
    {f"image_{number}": x for number, x in zip(subject.numbers, heat)},
    (
      str(subject),
      f"{title}: a patch has {min(x.min() for x in ratios):.2f} to "
      f"{max(x.max() for x in ratios):.2f} times the mean",
    ),
  )


def _share(text):
  share = float(text)
  if not 0 <= share <= 1:
    raise ValueError("give 0 to 1")
  return share


ANALYSIS = Analysis(
  "rollout",
  "attention of all blocks multiplied: which patches reach the output",
  Given.IMAGES,
  (
    images.count(8, most=images.MOST_DRAWN),
    images.PATCH_SIZE,
    Option(
      "residual",
      "share of a block's own input: 0.5 as Abnar and Zuidema, 0 for the "
      "attention alone",
      "0.5",
      _share,
    ),
  ),
  run,
)
