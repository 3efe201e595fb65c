"""Tables of numbers as coloured cells."""

from collections.abc import Sequence

import matplotlib
import numpy as np
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
  return _draw(
    cells,
    rows=[size_name(size) for size in sizes],
    columns=columns,
    norm=Normalize(np.nanmin(cells), np.nanmax(cells)),
    digits=1,
    row_inches=0.3,
    labels=(label, "patch (px)", "top-1 (%)"),
  )


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
  names = (classes.class_name(sweep.classes, label) for label in labels)
  worst = f"the {len(labels)} worst of {len(own)} classes"
  return _draw(
    cells,
    rows=[style.printable(name) for name in names],
    columns=[size_name(point.setting.patch_hw) for point in counts],
    norm=Normalize(0, 100),
    digits=0,
    row_inches=0.25,
    labels=(
      f"patch (px), {at}",
      worst if len(own) > len(labels) else "",
      "accuracy (%)",
    ),
  )


def _draw(
  cells: np.ndarray,
  *,
  rows: Sequence[str],
  columns: Sequence[str],
  norm: Normalize,
  digits: int,
  row_inches: float,
  labels: tuple[str, str, str],
) -> Figure:
  """A grid of coloured cells with their numbers, the first row on top.

  Args:
    cells: `[rows, columns]`; NaN cells are left empty.
    digits: after the point.
    labels: of the columns, of the rows and of the colours.
  """
  with style.drawing():
    figure = style.new_figure(1.2 + row_inches * len(rows))
    plot = figure.add_subplot()
    # Rectangles, not an image: sharp at every size.
    mesh = plot.pcolormesh(
      np.ma.masked_invalid(cells),
      cmap=matplotlib.colormaps[style.COLOUR_MAP],
      norm=norm,
      edgecolor=style.PAPER,
      linewidth=0.5,
    )
    for (i, j), value in np.ndenumerate(cells):
      if not np.isnan(value):
        plot.text(
          *(j + 0.5, i + 0.5, f"{value:.{digits}f}"),
          ha="center",
          va="center",
          fontsize=8,
          color=style.contrasting(mesh.to_rgba(value)),
        )
    crowded = max(map(len, columns)) * len(columns) > 40
    turned = {"rotation": 90} if crowded else {}
    plot.set_xticks(np.arange(len(columns)) + 0.5, columns, **turned)
    plot.set_yticks(np.arange(len(rows)) + 0.5, rows)
    plot.tick_params(length=0)
    plot.spines[:].set_visible(False)
    plot.invert_yaxis()
    plot.set_xlabel(labels[0])
    plot.set_ylabel(labels[1])
    figure.colorbar(mesh, ax=plot, label=labels[2], pad=0.02)
    return style.settle(figure)
