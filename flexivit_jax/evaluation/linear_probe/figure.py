"""Few-shot accuracy against the patch size."""

import itertools
import math
from collections.abc import Sequence

from matplotlib import ticker
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flexivit_jax.core.sizes import size_name
from flexivit_jax.evaluation import deploy
from flexivit_jax.evaluation.linear_probe.ridge import counted
from flexivit_jax.evaluation.linear_probe.table import Point
from flexivit_jax.evaluation.report.figures import style

_DASHES = ("-", "--", ":", "-.")


def draw_few_shot(points: Sequence[Point]) -> Figure:
  """Top-1 in percent against the patch size, on a logarithmic axis.

  A line for each number of shots, with its colour and marker, and for each
  resolution or budget, with its dashes; bars are the standard error over draws.
  """
  lines: dict[str, list[Point]] = {}
  for point in points:
    lines.setdefault(deploy.describe_at(point.setting), []).append(point)
  shots = [accuracy.shots for accuracy in points[0].accuracies]
  with style.drawing():
    figure = style.new_figure(3.7)
    plot = figure.add_subplot()
    for members, dashes in zip(lines.values(), itertools.cycle(_DASHES)):
      members = sorted(members, key=_side)
      for number in range(len(shots)):
        plot.errorbar(
          [_side(p) for p in members],
          [100 * p.accuracies[number].mean for p in members],
          [100 * (p.accuracies[number].standard_error or 0) for p in members],
          linestyle=dashes,
          linewidth=1,
          markersize=5,
          capsize=2,
          **_look(number),
        )
    _scale(plot, points)
    plot.set_xlabel("patch size (px)")
    plot.set_ylabel("top-1 accuracy (%)")
    plot.grid(alpha=0.6)
    handles = [
      Line2D([], [], linestyle="-", label=_shots(count), **_look(number))
      for number, count in enumerate(shots)
    ]
    if len(lines) > 1:
      handles += [
        Line2D([], [], color=style.INK, linestyle=dashes, label=at)
        for at, dashes in zip(lines, itertools.cycle(_DASHES))
      ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    style.settle(figure)
  return figure


def _shots(count):
  return f"{counted(count, 'image')} of each class"


def _look(number):
  return {
    "color": style.COLOURS[number % len(style.COLOURS)],
    "marker": style.MARKERS[number % len(style.MARKERS)],
  }


def _side(point):
  """Of a square of as many pixels."""
  return math.prod(point.setting.patch_hw) ** 0.5


def _scale(plot, points):
  names = {_side(p): size_name(p.setting.patch_hw) for p in points}
  plot.set_xscale("log")
  plot.xaxis.set_major_locator(ticker.FixedLocator(sorted(names)))
  plot.xaxis.set_major_formatter(
    ticker.FixedFormatter([names[side] for side in sorted(names)])
  )
  plot.xaxis.set_minor_locator(ticker.NullLocator())
  plot.margins(x=0.08)
  ends = [
    100 * (accuracy.mean + sign * (accuracy.standard_error or 0))
    for point in points
    for accuracy in point.accuracies
    for sign in (-1, 1)
  ]
  middle, half = (max(ends) + min(ends)) / 2, (max(ends) - min(ends)) / 2
  # Ten points at least: a tenth of a percent should not look like much.
  half = max(5, 1.15 * half)
  # Little of what no accuracy can be.
  plot.set_ylim(max(middle - half, -1), min(middle + half, 101))
