"""Linear CKA: how alike two representations of the same images are.

Kornblith and others, arXiv:1905.00414. All in float64 and over all images at
once: the minibatch estimators are biased for few images.
"""

from collections.abc import Iterable, Mapping, Sequence

import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from flexivit_jax.analysis import images as images_lib
from flexivit_jax.analysis.activations import Activations
from flexivit_jax.analysis.figures import SEQUENTIAL
from flexivit_jax.core.resize import resize_grid
from flexivit_jax.core.tokens import Tokens
from flexivit_jax.evaluation.report.figures.style import COLOURS
from flexivit_jax.models.vit import ViT
from flexivit_jax.nn import pooling

# A representation that varies by no more than this share of its length is
# constant up to rounding of float32, and its similarity undefined.
_CONSTANT = 1e-6


def gram(x: np.ndarray) -> np.ndarray:
  """Centred products of images, of norm 1: CKA is a product of two of them.

  Args:
    x: `[n, p]`, or `[n, ...]`, which is flattened.

  Returns:
    f64 `[n, n]`; NaN where x is constant.

  Raises:
    ValueError: fewer than 2 images.
  """
  x = np.asarray(x, np.float64).reshape(len(x), -1)
  if len(x) < 2:
    raise ValueError(f"CKA of {len(x)} images: give at least 2")
  centred = x - x.mean(axis=0, keepdims=True)
  products = centred @ centred.T
  if np.sqrt(np.trace(products)) <= _CONSTANT * np.linalg.norm(x):
    return np.full_like(products, np.nan)
  return products / np.linalg.norm(products)


def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """CKA of every representation with every other.

  |Yc^T Xc|^2 / (|Xc^T Xc| |Yc^T Yc|) in Frobenius norms, c for centred: 1
  where one is the other turned and scaled. Of p features each that are
  independent about p / n where n is much larger, towards 1 where p is. NaN
  where one is constant.

  Args:
    a, b: f64 `[i, n, n]` and `[j, n, n]`: `gram` of each, of the same images.

  Returns:
    f64 `[i, j]`.

  Raises:
    ValueError: not the same number of images.
  """
  if a.shape[1:] != b.shape[1:]:
    raise ValueError(
      f"CKA of {a.shape[1]} with {b.shape[1]} images: give the same images"
    )
  return a.reshape(len(a), -1) @ b.reshape(len(b), -1).T


_MARKERS = "os^vDP"


def draw_similarities(
  matrices: Mapping[str, np.ndarray],
  labels: Mapping[str, Sequence[str]],
  sizes: tuple[str, str],
) -> Figure:
  """CKA of all layers at one patch size with all layers at another.

  Args:
    matrices: title of the panel to `[layers, layers]`, first size by second;
      NaN where it is undefined.
    labels: of the layers of each panel.
    sizes: names of the two patch sizes.
  """
  figure = Figure(figsize=(1 + 3.6 * len(matrices), 3.9), layout="constrained")
  panels = figure.subplots(1, len(matrices), squeeze=False)[0]
  cmap = matplotlib.colormaps[SEQUENTIAL].with_extremes(bad="0.8")
  for axes, (title, values) in zip(panels, matrices.items(), strict=True):
    image = axes.imshow(values, cmap=cmap, vmin=0, vmax=1, origin="lower")
    _layers(axes.xaxis, labels[title])
    _layers(axes.yaxis, labels[title])
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel(f"layer at {sizes[1]} px")
    axes.set_ylabel(f"layer at {sizes[0]} px")
  figure.colorbar(image, ax=list(panels), shrink=0.8, label="linear CKA")
  return figure


def draw_same_layers(
  curves: Mapping[str, Mapping[str, np.ndarray]],
  chance: Mapping[str, np.ndarray],
  labels: Mapping[str, Sequence[str]],
) -> Figure:
  """CKA of each layer with itself, between pairs of patch sizes.

  Args:
    curves: title of the panel to name of the pair to `[layers]`.
    chance: title of the panel to that of different images.
    labels: as for `draw_similarities`.
  """
  figure = Figure(figsize=(1 + 3.8 * len(curves), 4.2), layout="constrained")
  panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
  for axes, (title, pairs) in zip(panels, curves.items(), strict=True):
    for i, (pair, values) in enumerate(pairs.items()):
      axes.plot(
        values,
        ("-", "--", ":")[i // len(COLOURS) % 3],
        marker=_MARKERS[i % len(_MARKERS)],
        markersize=4,
        color=COLOURS[i % len(COLOURS)],
        label=pair,
      )
    axes.plot(
      chance[title], "--", color="0.5", label="of different images (chance)"
    )
    _layers(axes.xaxis, labels[title])
    axes.set_ylim(0, 1.02)
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("layer")
    axes.grid(alpha=0.3)
  panels[0].set_ylabel("linear CKA of the same layer")
  handles, names = panels[0].get_legend_handles_labels()
  figure.legend(
    handles,
    names,
    title="patch sizes (px)",
    loc="outside lower center",
    ncols=min(len(names), 4),
    fontsize="small",
  )
  return figure


def _layers(axis, names):
  """Names of layers; of deep models that of every fourth."""
  ticks = range(0, len(names), 1 if len(names) <= 14 else 4)
  axis.set_ticks(ticks, [names[i] for i in ticks], fontsize=8)


# Fields of `Activations` that are read here.
NAMES = ("front", "patches")


def patch_layers(
  found: Activations, tokens: Tokens, grid_hw: tuple[int, int]
) -> list[list[np.ndarray]]:
  """For each image `[rows, cols, d]` at every layer: what the first block
  gets, then after each block.

  Each is scaled down to one grid, bilinearly with antialias, so that its
  features can be taken together, location by channel: a location is then
  compared with the same location, and what positions add, being the same for
  all images, falls out with the mean.

  Args:
    grid_hw: (rows, cols) of that grid, as of `common_grid`.
  """
  layers = [
    [
      resize_grid(image, grid_hw, antialias=True).astype(np.float32)
      for image in images_lib.to_images(tokens, np.asarray(x, np.float32))
    ]
    for x in found.patches
  ]
  return [list(image) for image in zip(*layers, strict=True)]


def pooled_layers(
  model: ViT, found: Activations, tokens: Tokens
) -> list[list[np.ndarray]]:
  """For each image `[d]` at every layer.

  The class token where it is what the head reads, after each block: before
  the first it is the same for all images. Else the mean of the patches, from
  what the first block gets on.
  """
  e = tokens.num_images
  if isinstance(model.pool, pooling.ClassToken):
    layers = [x[:, :: x.shape[1] // e] for x in found.front]
  else:
    layers = [
      pooling.average(jnp.asarray(x), tokens.segments, e) for x in found.patches
    ]
  layers = [np.asarray(x) for x in layers]
  return [
    [x[place.row, place.slot] for x in layers]
    for place in images_lib.places(tokens)
  ]


def common_grid(grids: Iterable[tuple[int, int]]) -> tuple[int, int]:
  """(rows, cols) of the coarsest grid, to which all can be scaled down."""
  rows, cols = zip(*grids)
  return min(rows), min(cols)


def grams(images: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
  """`cka.gram` of each layer, `[layers, n, n]`.

  Args:
    images: for each image its features at every layer.
  """
  return np.stack([gram(np.stack(x)) for x in zip(*images, strict=True)])


def same_layer(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """CKA of each layer with the same layer at another size, `[layers]`.

  Args:
    a, b: grams, `[layers, n, n]`.
  """
  return np.einsum("lij,lij->l", a, b)


def by_chance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """The same of different images, `[layers]`: each of a with another one of b.

  What is left of CKA then is not of the images. It is small where features are
  few beside images, and grows towards 1 where they are many.
  """
  half = b.shape[-1] // 2
  return same_layer(a, np.roll(b, (half, half), axis=(1, 2)))
