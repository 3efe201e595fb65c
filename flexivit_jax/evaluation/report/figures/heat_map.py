"""Tables of numbers as coloured cells."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from flexivit_jax.core.sizes import size_name
from flexivit_jax.evaluation.deploy import describe, describe_at
from flexivit_jax.evaluation.report import classes
from flexivit_jax.evaluation.report.figures import style
from flexivit_jax.evaluation.settings import Point
from flexivit_jax.tasks.predictions import Answers


def draw_heat_map(points: Sequence[Point]) -> Figure | None:
  """Top-1 in percent by patch size and resolution or budget.

  Cells that were not evaluated are empty. None: all points have the same
  resolution, or budget, and a curve says more.
  """
  settings = [p.setting for p in points]
  ats = list(dict.fromkeys(map(describe_at, settings)))
  sizes = list(dict.fromkeys(s.patch_hw for s in settings))
  if len(ats) < 2:
    return None
  cells = np.full((len(sizes), len(ats)), np.nan)
  for p in points:
    row = sizes.index(p.setting.patch_hw)
    cells[row, ats.index(describe_at(p.setting))] = 100 * p.top1
  columns, label = ats, "image size or budget"
  if all(s.budget is not None for s in settings):
    columns = [at.removesuffix(" tokens") for at in ats]
    label = "budget: most tokens of an image"
  elif all(s.budget is None for s in settings):
    columns = [at.removesuffix(" px") for at in ats]
    label = "image size (px)"
  with style.drawing():
    figure = style.new_figure(1.2 + 0.3 * len(sizes))
    plot = figure.add_subplot()
    colours = draw_cells(
      plot,
      cells,
      texts=[["" if np.isnan(x) else f"{x:.1f}" for x in r] for r in cells],
      rows=[size_name(size) for size in sizes],
      columns=columns,
      norm=Normalize(np.nanmin(cells), np.nanmax(cells)),
    )
    plot.set_xlabel(label)
    plot.set_ylabel("patch (px)")
    figure.colorbar(colours, ax=plot, label="top-1 (%)", pad=0.02)
    return style.settle(figure)


def draw_cells(
  plot: Axes,
  cells: np.ndarray,
  *,
  texts: Sequence[Sequence[str]],
  rows: Sequence[str],
  columns: Sequence[str],
  norm: Normalize,
) -> matplotlib.cm.ScalarMappable:
  """A grid of coloured cells with texts, the first row on top.

  Args:
    cells: `[rows, columns]`; NaN cells are left empty.

  Returns: what a colour bar needs.
  """
  # Rectangles, not an image: sharp at every size.
  mesh = plot.pcolormesh(
    np.ma.masked_invalid(cells),
    cmap=matplotlib.colormaps[style.COLOUR_MAP],
    norm=norm,
    edgecolor=style.PAPER,
    linewidth=0.5,
  )
  for (i, j), value in np.ndenumerate(cells):
    if texts[i][j]:
      plot.text(
        j + 0.5,
        i + 0.5,
        texts[i][j],
        ha="center",
        va="center",
        fontsize=8,
        color=style.contrasting(mesh.to_rgba(value)),
      )
  crowded = max(map(len, columns)) * len(columns) > 40
  plot.set_xticks(
    np.arange(len(columns)) + 0.5,
    columns,
    **({"rotation": 90} if crowded else {}),
  )
  plot.set_yticks(np.arange(len(rows)) + 0.5, rows)
  plot.tick_params(length=0)
  plot.spines[:].set_visible(False)
  plot.invert_yaxis()
  return mesh


# What can be read on a phone.
MOST_CLASSES = 25
MOST_PAIRS = 20
LARGEST_MATRIX = 12
_ROW = 0.19


def draw_per_class(
  names: Sequence[str],
  best: tuple[Point, Answers],
  cheap: tuple[Point, Answers],
) -> Figure:
  """Accuracy of each class at two points, the worst at the first on top.

  Of more than `MOST_CLASSES` classes the worst are drawn.
  """
  every = classes.per_class(best[1])
  found = sorted(every, key=lambda c: (c.accuracy, c.label))[:MOST_CLASSES]
  other = {c.label: c.accuracy for c in classes.per_class(cheap[1])}
  with style.drawing():
    figure = style.new_figure(1.2 + _ROW * len(found))
    plot = figure.add_subplot()
    rows = np.arange(len(found))
    here = np.array([100 * c.accuracy for c in found])
    plot.set_yticks(rows, [_named(names, c.label, c.images) for c in found])
    if cheap[0] != best[0]:
      there = np.array([100 * other.get(c.label, np.nan) for c in found])
      plot.hlines(rows, here, there, color=style.FAINT, linewidth=3)
      plot.plot(
        there,
        rows,
        "s",
        color=style.COLOURS[1],
        markerfacecolor=style.PAPER,
        markersize=5,
        label=describe(cheap[0].setting),
        clip_on=False,
      )
    plot.plot(
      here,
      rows,
      "o",
      color=style.COLOURS[0],
      markersize=6,
      label=describe(best[0].setting),
      clip_on=False,
    )
    plot.set_ylim(len(found) - 0.5, -0.5)
    plot.set_xlim(-2, 102)
    plot.grid(axis="x", alpha=0.6)
    plot.tick_params(axis="y", length=0)
    if len(every) > len(found):
      plot.set_ylabel(f"the {len(found)} worst of {len(every)} classes")
    plot.set_xlabel(
      "accuracy of the class (%); images in brackets", loc="right"
    )
    figure.legend(loc="outside upper center", ncols=2)
    return style.settle(figure)


def draw_confusion(
  names: Sequence[str], point: Point, answers: Answers
) -> Figure | None:
  """What each class was taken for at a point.

  A matrix of up to `LARGEST_MATRIX` classes; of more, the pairs that are most
  confused. None: nothing was.
  """
  if len(names) <= LARGEST_MATRIX:
    return _matrix(names, answers, describe(point.setting))
  return _pairs(names, answers, describe(point.setting))


def _matrix(names, answers, title):
  counts = classes.confusion_matrix(answers, len(names))
  if not counts[:, -1].any():
    counts = counts[:, :-1]
  shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
  shown = [style.printable(n, 14) for n in names]
  columns = [*shown, "another"][: counts.shape[1]]
  with style.drawing():
    figure = style.new_figure(1.4 + 0.28 * len(names))
    plot = figure.add_subplot()
    colours = draw_cells(
      plot,
      shares,
      texts=[[str(n) if n else "" for n in row] for row in counts],
      rows=shown,
      columns=columns,
      norm=Normalize(0, 100),
    )
    plot.set_title(title)
    plot.set_xlabel("predicted class")
    plot.set_ylabel("right class")
    figure.colorbar(colours, ax=plot, label="share of the class (%)", pad=0.02)
    return style.settle(figure)


def _pairs(names, answers, title):
  found = classes.confusions(answers)[:MOST_PAIRS]
  if not found:
    return None
  with style.drawing():
    figure = style.new_figure(0.9 + 2 * _ROW * len(found))
    plot = figure.add_subplot()
    rows = np.arange(len(found))
    bars = plot.barh(
      rows + 0.22,
      [c.images for c in found],
      height=0.4,
      color=style.COLOURS[0],
      edgecolor="none",
    )
    plot.bar_label(bars, [f"{100 * c.share:.0f} %" for c in found], padding=3)
    # Names stand above their bar: beside it there is no room for two.
    for row, pair in enumerate(found):
      name = style.printable(classes.class_name(names, pair.label))
      taken = style.printable(classes.class_name(names, pair.predicted))
      plot.text(
        0,
        row - 0.2,
        f" {name} \N{RIGHTWARDS ARROW} {taken}",
        va="center",
        fontsize=8,
      )
    plot.set_ylim(len(found) - 0.4, -0.6)
    plot.set_yticks([])
    plot.margins(x=0.15)
    plot.xaxis.get_major_locator().set_params(integer=True)
    plot.grid(axis="x", alpha=0.6)
    plot.set_axisbelow(True)
    plot.set_title(title)
    plot.set_xlabel("images (and their share of the right class)")
    return style.settle(figure)


def _named(names, label, images):
  name = style.printable(classes.class_name(names, label))
  return f"{name} ({images})"
