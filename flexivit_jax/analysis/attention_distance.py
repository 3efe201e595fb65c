"""Mean attention distance: how far a head looks (ViT, figure 11)."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from flexivit_jax.analysis import images
from flexivit_jax.analysis.activations import block_weights
from flexivit_jax.analysis.analysis import Analysis, Findings, Given
from flexivit_jax.core.sizes import size_name
from flexivit_jax.core.text import align
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


def draw(
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


def run(subject: images.Subject, options) -> Findings:
  del options
  distances, uniform = {}, {}
  for size in subject.sizes:
    found = subject.of_images(_by_image, size, ("attentions", "segments"))
    name = size_name(size)
    distances[name] = mean_of_images([x for x, _ in found])
    uniform[name] = float(mean_of_images([x for _, x in found]))
  numbers = {f"distance_{name}": x for name, x in distances.items()}
  numbers |= {f"uniform_{name}": np.array(x) for name, x in uniform.items()}
  return Findings(
    {"attention_distance": draw(distances, uniform)},
    numbers,
    (str(subject), _table(distances, uniform)),
  )


def _by_image(found, tokens):
  """`[depth, h]` of each image, and the distance of uniform attention."""
  measure = functools.partial(attention_distance, tokens=tokens)
  blocks = range(len(found.attentions))
  own = jnp.stack([measure(block_weights(found, i)) for i in blocks], axis=2)
  l = tokens.patches.shape[1]
  # Patches of one image alike; those of others have no weight.
  even = jnp.ones((len(tokens.patches), 1, l, l))
  if tokens.segments is not None:
    same = tokens.segments[:, :, None] == tokens.segments[:, None]
    even = jnp.where(same[:, None], even, 0)
  own, even = np.asarray(own), np.asarray(measure(even)[..., 0])
  return [(own[at[:2]], even[at[:2]]) for at in images.places(tokens)]


def _table(distances, uniform) -> str:
  rows = [("patch", "block", "mean px", "least head", "most", "uniform")]
  for name, values in distances.items():
    for block, heads in enumerate(values):
      cells = (heads.mean(), heads.min(), heads.max(), uniform[name])
      rows.append((name, str(block), *(f"{x:.1f}" for x in cells)))
  return align(rows, left=1)


ANALYSIS = Analysis(
  "attention-distance",
  "mean attention distance in pixels, by head and depth",
  Given.IMAGES,
  # So many images as in the ViT paper.
  (images.count(128), images.PATCH_SIZES),
  run,
)
