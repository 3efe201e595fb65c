"""Figures of features: similarity of layers, patches as colours."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from flexivit_jax.analysis.figures import COLOURS, SEQUENTIAL, bare

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
