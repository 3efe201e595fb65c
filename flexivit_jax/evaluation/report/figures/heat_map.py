"""Tables of numbers as coloured cells."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from flexivit_jax.core.sizes import size_name
from flexivit_jax.evaluation import deploy
from flexivit_jax.evaluation.deploy import describe_at
from flexivit_jax.evaluation.report import classes
from flexivit_jax.evaluation.report.figures import style
from flexivit_jax.evaluation.settings import Point, Sweep

# As many as can be read on a phone.
MOST_CLASSES = 25


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


def draw_classes(sweep: Sweep) -> Figure:
  """Draw the accuracy in percent of each class at each patch size.

  Patch sizes are those at the resolution or budget of the most accurate point.
  The worst classes at that point come first; of more than `MOST_CLASSES` the
  worst are drawn.
  """
  best = deploy.most_accurate(sweep.points)
  at = describe_at(best.setting)
  counts = {
    point: {c.label: 100 * c.accuracy for c in classes.per_class(answers)}
    for point, answers in zip(sweep.points, sweep.answers, strict=True)
    if describe_at(point.setting) == at
  }
  own = counts[best]
  labels = sorted(own, key=lambda label: (own[label], label))[:MOST_CLASSES]
  cells = np.array(
    [[c.get(label, np.nan) for c in counts.values()] for label in labels]
  )
  with style.drawing():
    figure = style.new_figure(1.2 + 0.25 * len(labels))
    plot = figure.add_subplot()
    colours = draw_cells(
      plot,
      cells,
      rows=[
        style.printable(classes.class_name(sweep.classes, label))
        for label in labels
      ],
      columns=[size_name(point.setting.patch_hw) for point in counts],
      texts=[["" if np.isnan(x) else f"{x:.0f}" for x in r] for r in cells],
      norm=Normalize(0, 100),
    )
    plot.set_xlabel(f"patch (px), {at}")
    if len(own) > len(labels):
      plot.set_ylabel(f"the {len(labels)} worst of {len(own)} classes")
    figure.colorbar(colours, ax=plot, label="accuracy (%)", pad=0.02)
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
