"""Linear CKA of layers: how alike two patch sizes represent the same images.

Kornblith and others, arXiv:1905.00414. All in float64 and over all images at
once: the minibatch estimators are biased for few images.
"""

import itertools
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from flexivit_jax.analysis import images
from flexivit_jax.analysis.activations import Activations
from flexivit_jax.analysis.analysis import Analysis, Findings, Given, Refusal
from flexivit_jax.analysis.figures import SEQUENTIAL
from flexivit_jax.core.resize import resize_grid
from flexivit_jax.core.sizes import size_name
from flexivit_jax.core.text import align
from flexivit_jax.core.tokens import Tokens
from flexivit_jax.evaluation.report.figures.style import COLOURS
from flexivit_jax.models.vit import ViT
from flexivit_jax.nn import pooling

# A representation that varies by no more than this share of its length is
# constant up to rounding of float32, and its similarity undefined.
_CONSTANT = 1e-6
# Pairs of patch sizes in one figure: those of five.
MOST_PAIRS = 10
_MARKERS = "os^vDP"


def gram(x: np.ndarray) -> np.ndarray:
  """Centred products of images, of norm 1: CKA is a product of two of them.

  CKA is |Yc^T Xc|^2 / (|Xc^T Xc| |Yc^T Yc|) in Frobenius norms, c for centred:
  1 where one is the other turned and scaled. For p features each that are
  independent about p / n where n is much larger, and towards 1 where p is.

  Args:
    x: `[n, ...]`, features of at least 2 images.

  Returns:
    f64 `[n, n]`; NaN where x is constant.
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
  """CKA of every representation with every other, `[i, j]`.

  Args:
    a, b: `[i, n, n]` and `[j, n, n]`: `gram` of each, of the same images.
  """
  return a.reshape(len(a), -1) @ b.reshape(len(b), -1).T


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
    grid_hw: (rows, cols) of that grid: the coarsest.
  """
  layers = [
    [
      resize_grid(image, grid_hw, antialias=True).astype(np.float32)
      for image in images.to_images(tokens, np.asarray(x, np.float32))
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
    for place in images.places(tokens)
  ]


def grams(layers: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
  """`gram` of each layer, `[layers, n, n]`.

  Args:
    layers: for each image its features at every layer.
  """
  return np.stack([gram(np.stack(x)) for x in zip(*layers, strict=True)])


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


def draw_similarities(
  matrices: Mapping[str, np.ndarray],
  labels: Mapping[str, Sequence[str]],
  sizes: tuple[str, str],
) -> Figure:
  """CKA of all layers at one patch size with all layers at another.

  Args:
    matrices: title of the panel to `[layers, layers]`; NaN: undefined.
    labels: of the layers of each panel.
    sizes: names of the two patch sizes: of rows, of columns.
  """
  figure = Figure(figsize=(1 + 3.6 * len(matrices), 3.9), layout="constrained")
  panels = figure.subplots(1, len(matrices), squeeze=False)[0]
  cmap = matplotlib.colormaps[SEQUENTIAL].with_extremes(bad="0.8")
  for axes, (title, values) in zip(panels, matrices.items(), strict=True):
    image = axes.imshow(values, cmap=cmap, vmin=0, vmax=1, origin="lower")
    _layers(axes.yaxis, labels[title], f"layer at {sizes[0]} px")
    _layers(axes.xaxis, labels[title], f"layer at {sizes[1]} px")
    axes.set_title(title, fontsize="medium")
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
  of_others = {"color": "0.5", "label": "of different images (chance)"}
  for axes, (title, pairs) in zip(panels, curves.items(), strict=True):
    for i, (pair, values) in enumerate(pairs.items()):
      look = {"marker": _MARKERS[i % len(_MARKERS)], "markersize": 4}
      look["color"] = COLOURS[i % len(COLOURS)]
      line = ("-", "--", ":")[i // len(COLOURS) % 3]
      axes.plot(values, line, label=pair, **look)
    axes.plot(chance[title], "--", **of_others)
    _layers(axes.xaxis, labels[title], "layer")
    axes.set_ylim(0, 1.02)
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
  panels[0].set_ylabel("linear CKA of the same layer")
  figure.legend(
    *panels[0].get_legend_handles_labels(),
    title="patch sizes (px)",
    loc="outside lower center",
    ncols=min(len(next(iter(curves.values()))) + 1, 4),
    fontsize="small",
  )
  return figure


def _layers(axis, names, label):
  """Set the names of layers; of deep models that of every fourth."""
  ticks = range(0, len(names), 1 if len(names) <= 14 else 4)
  axis.set_ticks(ticks, [names[i] for i in ticks], fontsize=8)
  axis.set_label_text(label)


def run(subject: images.Subject, options) -> Findings:
  del options
  if len(subject.sizes) < 2:
    raise Refusal(
      "--patch_sizes: CKA compares at least 2, and there is only "
      f"{size_name(subject.sizes[0])}: give 8,16 say"
    )
  if len(subject.images) < 2:
    raise Refusal(f"--data: CKA compares at least 2 images, of {subject}")
  grams_of = _grams_of(subject)
  depth = subject.model.size.depth
  names = [size_name(size) for size in subject.sizes]
  first, last = names[0], names[-1]
  labels, matrices, curves, chance = {}, {}, {}, {}
  for title, each in grams_of.items():
    layers = ["in", *map(str, range(depth))]
    labels[title] = layers[-len(each[first]) :]
    matrices[title] = between(each[first], each[last])
    pairs = list(itertools.combinations(names, 2))
    curves[title] = {
      f"{a} and {b}": same_layer(each[a], each[b]) for a, b in pairs
    }
    # The largest of all pairs: what a curve has to be far above.
    others = [by_chance(each[a], each[b]) for a, b in pairs]
    chance[title] = np.max(others, axis=0)
  # Of more pairs than can be told apart those with the first size.
  few = len(pairs) <= MOST_PAIRS
  drawn = {
    title: {k: x for k, x in of.items() if few or k.startswith(f"{first} and ")}
    for title, of in curves.items()
  }
  return Findings(
    {
      "cka_layers": draw_similarities(matrices, labels, (first, last)),
      "cka_sizes": draw_same_layers(drawn, chance, labels),
    },
    dict(_numbers(matrices, curves, chance, (first, last))),
    (str(subject), *_tables(curves, chance, labels)),
  )


def _grams_of(subject):
  """Title of the kind of features to name of the patch size to grams."""
  grids = [x for size in subject.sizes for x in subject.grids(size)]
  grid = tuple(map(min, zip(*grids)))
  model = subject.model
  has_class = isinstance(model.pool, pooling.ClassToken)
  titles = (
    "class token" if has_class else "mean of patches",
    f"patches, on {grid[0]}x{grid[1]}",
  )

  def by_image(found, tokens):
    pooled = pooled_layers(model, found, tokens)
    return list(zip(pooled, patch_layers(found, tokens, grid), strict=True))

  found = {title: {} for title in titles}
  for size in subject.sizes:
    # Features of one size at a time: of large images they fill the memory.
    layers = subject.of_images(by_image, size, ("front", "patches"))
    for title, of_kind in zip(titles, zip(*layers, strict=True)):
      found[title][size_name(size)] = grams(of_kind)
  return found


def _numbers(matrices, curves, chance, sizes):
  for kind, title in zip(("pooled", "patches"), matrices):
    yield f"{kind}_{sizes[0]}_by_{sizes[1]}", matrices[title]
    yield f"{kind}_chance", chance[title]
    for pair, values in curves[title].items():
      yield f"{kind}_same_layer_{pair.replace(' and ', '_')}", values


def _tables(curves, chance, labels):
  for title, pairs in curves.items():
    rows = [("sizes", *labels[title])]
    for pair, values in [*pairs.items(), ("chance", chance[title])]:
      rows.append((pair, *(f"{x:.2f}" for x in values)))
    yield f"CKA of the same layer, {title}:\n{align(rows, left=1)}"


ANALYSIS = Analysis(
  "cka",
  "similarity of the layers at one patch size with those at another",
  Given.IMAGES,
  (images.count(500, least=2), images.PATCH_SIZES),
  run,
)
