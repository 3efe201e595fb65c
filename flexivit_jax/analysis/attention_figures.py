"""Figures of attention: distances, maps over images, share of the cost."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colors, patches, ticker
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from flexivit_jax.analysis.figures import COLOURS, SEQUENTIAL, bare


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


def draw_maps(
  images: Sequence[np.ndarray],
  maps: Sequence[np.ndarray],
  title: str,
  query: tuple[int, int] | None = None,
) -> Figure:
  """A row for each image: the image, then the map of each head.

  Args:
    images: u8 `[h, w, 3]`.
    maps: `[rows, cols, h]` each; every map is scaled by its own maximum.
    query: (row, col) of the patch whose attention it is, to be outlined.
  """
  heads = maps[0].shape[-1]
  figure = Figure(
    figsize=(1.5 + 1.1 * (heads + 1), 0.9 + 1.1 * len(images)),
    layout="constrained",
  )
  grid = figure.subplots(len(images), heads + 1, squeeze=False)
  norm = colors.Normalize(0, 1)
  for row, image, values in zip(grid, images, maps, strict=True):
    row[0].imshow(image)
    grey = image.mean(axis=-1)
    for axes, head in zip(row[1:], np.moveaxis(values, -1, 0), strict=True):
      axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
      largest = np.nanmax(head)
      # The image shines through.
      over(axes, head / (largest or 1), image.shape[:2], norm, alpha=0.75)
    for axes in row:
      bare(axes)
      if query is not None:
        _outline(axes, query, image.shape[:2], values.shape[:2])
  grid[0, 0].set_title("image", fontsize=8)
  for head, axes in enumerate(grid[0, 1:]):
    axes.set_title(f"head {head}", fontsize=8)
  figure.suptitle(title, fontsize="medium")
  figure.colorbar(
    ScalarMappable(norm, SEQUENTIAL),
    ax=grid,
    panchor=False,
    shrink=0.8,
    aspect=30,
    label="attention / largest of the map",
  )
  return figure


def _outline(axes, query, image_hw, grid_hw):
  h, w = (side / n for side, n in zip(image_hw, grid_hw, strict=True))
  corner = (query[1] * w - 0.5, query[0] * h - 0.5)
  axes.add_patch(
    patches.Rectangle(
      corner, w, h, fill=False, edgecolor=COLOURS[1], linewidth=1.5
    )
  )


def draw_shares(
  lengths: np.ndarray,
  shares: Mapping[str, np.ndarray],
  marks: Mapping[str, tuple[int, float]],
  name: str = "",
) -> Figure:
  """Attention's share of a block's cost against the length of a row.

  Args:
    shares: label to `[n]`, of 0 to 1, at n lengths.
    marks: label to (length, share): where a checkpoint works.
    name: of the checkpoint.
  """
  figure = Figure(figsize=(6.4, 4.4), layout="constrained")
  axes = figure.add_subplot()
  styles = ("-", "--", ":")
  for i, (label, values) in enumerate(shares.items()):
    axes.plot(
      lengths,
      100 * values,
      styles[i // len(COLOURS) % len(styles)],
      color=COLOURS[i % len(COLOURS)],
      label=label,
    )
  if marks:
    at = np.array(list(marks.values()))
    axes.plot(
      at[:, 0], 100 * at[:, 1], "ko", markersize=5, label=name, zorder=3
    )
    places = sorted(marks.items(), key=lambda mark: mark[1])
    before, raised = 0, False
    for label, (length, share) in places:
      # Of neighbours that are close, every second label stands higher.
      raised = length < 1.25 * before and not raised
      before = length
      axes.annotate(
        label,
        (length, 100 * share),
        xytext=(0, 36 if raised else 6),
        textcoords="offset points",
        ha="center",
        va="bottom",
        rotation=90,
        fontsize="small",
      )
  axes.set_xscale("log", base=2)
  axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
  axes.set_ylim(0, 100)
  axes.set_xlabel("row length (tokens)")
  axes.set_ylabel("logits and weighted sums,\nshare of a block's FLOPs (%)")
  axes.grid(alpha=0.3)
  axes.legend(fontsize="small", loc="upper left")
  return figure
