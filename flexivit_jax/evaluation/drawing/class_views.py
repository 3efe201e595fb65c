"""Which classes are hard, and what they are taken for."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from flexivit_jax.evaluation import classes
from flexivit_jax.evaluation.answers import Answers
from flexivit_jax.evaluation.choice import describe
from flexivit_jax.evaluation.drawing import style
from flexivit_jax.evaluation.drawing.heat_map import draw_cells
from flexivit_jax.evaluation.points import Point

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
