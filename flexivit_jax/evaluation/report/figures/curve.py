"""Accuracy against cost."""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from flexivit_jax.core.sizes import size_name
from flexivit_jax.evaluation import deploy, table
from flexivit_jax.evaluation.report.figures import style
from flexivit_jax.evaluation.settings import Point, Route


@dataclasses.dataclass(frozen=True)
class Axis:
  """A cost to draw accuracy against.

  Attributes:
    name: as files are called.
    title: as people call it.
    label: of the axis, with its unit.
    cost: of a point; None: not measured.
    unit: what the axis counts in.
  """

  name: str
  title: str
  label: str
  cost: deploy.Cost
  unit: float = 1.0

  def of(self, point: Point) -> float | None:
    cost = self.cost(point)
    return None if cost is None else cost / self.unit


def axes_for(points: Sequence[Point]) -> tuple[Axis, ...]:
  """The costs that were measured at one point at least."""
  flop, flops = table.flop_unit(points)
  every = (
    Axis(
      "multiply_adds",
      "Multiply-adds",
      f"multiply-adds per image ({flop})",
      deploy.multiply_adds,
      flops,
    ),
    Axis(
      "latency",
      "Latency",
      "latency of one image, median (ms)",
      deploy.latency,
      1e-3,
    ),
    Axis("tokens", "Tokens", "tokens per image", deploy.tokens),
  )
  return tuple(
    axis for axis in every if any(axis.of(p) is not None for p in points)
  )


def point_id(i: int) -> str:
  """The name in the SVG of what one can hover over at point i."""
  return f"point-{i}"


def draw_curve(points: Sequence[Point], axis: Axis) -> Figure:
  """Top-1 in percent against a cost, on a logarithmic axis.

  A line for each resolution or budget, a marker for each patch size, filled
  where the point is on the Pareto front. Above each marker lies an invisible
  one, larger, with the gid `point_id(i)`. Patch sizes stand beside their
  markers where there is room.
  """
  front = deploy.pareto(points, axis.cost)
  with style.drawing():
    figure = style.new_figure(3.7)
    plot = figure.add_subplot()
    _draw_front(plot, [points[i] for i in front], axis)
    lines: dict[str, list[int]] = {}
    for i, point in enumerate(points):
      if axis.of(point) is not None:
        at = deploy.describe_at(point.setting)
        lines.setdefault(at, []).append(i)
    for number, members in enumerate(lines.values()):
      _draw_line(plot, points, axis, members, number, front)
    _scale(plot, [points[i] for line in lines.values() for i in line], axis)
    plot.set_xlabel(f"{axis.label}\nat the points: patch size (px)")
    plot.set_ylabel("top-1 accuracy (%)")
    plot.grid(alpha=0.6)
    _legend(figure, lines)
    style.settle(figure)
    _write_sizes(plot, points, axis, front, lines)
  return figure


def _look(number):
  """Colour and marker of a line."""
  colour = style.COLOURS[number % len(style.COLOURS)]
  return colour, style.MARKERS[number % len(style.MARKERS)]


def _draw_line(plot, points, axis, members, number, front):
  colour, marker = _look(number)
  members = sorted(members, key=lambda i: axis.of(points[i]))
  x = [axis.of(points[i]) for i in members]
  y = [100 * points[i].top1 for i in members]
  plot.plot(x, y, color=colour, linewidth=1)
  for i, here, top1 in zip(members, x, y, strict=True):
    plot.plot(
      [here],
      [top1],
      marker=marker,
      markersize=7 if i in front else 5,
      markeredgecolor=colour,
      markerfacecolor=colour if i in front else style.PAPER,
      clip_on=False,
      zorder=3,
    )
    plot.plot(
      [here],
      [top1],
      marker="o",
      markersize=14,
      linestyle="none",
      alpha=0,
      color=style.INK,
      clip_on=False,
      zorder=5,
      gid=point_id(i),
    )


def _draw_front(plot, front, axis):
  # Steps: between two points there is none, the cheaper one is what one gets.
  plot.step(
    [axis.of(p) for p in front],
    [100 * p.top1 for p in front],
    where="post",
    color=style.FAINT,
    linewidth=5,
    solid_joinstyle="round",
    zorder=1,
  )


def _legend(figure, lines):
  handles = []
  for number, at in enumerate(lines):
    colour, marker = _look(number)
    handles.append(Line2D([], [], color=colour, marker=marker, label=at))
  handles.append(
    Line2D([], [], color=style.FAINT, linewidth=5, label="Pareto front")
  )
  # In characters, of which a row of the figure holds about 60.
  lengths = [len(handle.get_label()) + 7 for handle in handles]
  fits = sum(lengths) <= 60
  figure.legend(
    handles=handles,
    loc="outside upper center",
    ncols=len(handles) if fits else max(1, 60 // max(lengths)),
    handlelength=1.5,
  )


def _scale(plot, points, axis):
  plot.set_xscale("log")
  costs = [axis.of(p) for p in points]
  low, high = min(costs), max(costs)
  room = max((high / low) ** 0.06, 1.15)
  low, high = low / room, high * room
  plot.set_xlim(low, high)
  plot.xaxis.set_major_locator(ticker.FixedLocator(_ticks(low, high)))
  plot.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g}"))
  plot.xaxis.set_minor_locator(ticker.NullLocator())
  top1 = [100 * p.top1 for p in points]
  # At least ten points high: a tenth of a percent should not look like much.
  middle, half = (max(top1) + min(top1)) / 2, (max(top1) - min(top1)) / 2
  half = max(5, 1.15 * half)
  # Little of what no accuracy can be: room for markers and their labels.
  middle = min(max(middle, 0.88 * half), 100 - 0.8 * half)
  plot.set_ylim(middle - half, middle + half)
  plot.yaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))


def _ticks(low: float, high: float) -> list[float]:
  """1, 2 and 5 times powers of ten; in narrow ranges evenly spaced."""
  decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
  steps = (1, 2, 5) if high / low < 1e3 else (1,)
  ticks = [step * 10.0**decade for decade in decades for step in steps]
  ticks = [tick for tick in ticks if low <= tick <= high]
  if len(ticks) < 3:
    ticks = ticker.MaxNLocator(4).tick_values(low, high)
    ticks = [float(tick) for tick in ticks if low <= tick <= high]
  return ticks


# Where a label may stand, seen from its marker, in points: best first.
_PLACES = (
  *((0, 10, "center"), (0, -10, "center"), (9, 0, "left"), (-9, 0, "right")),
  *((6, 8, "left"), (-6, 8, "right"), (6, -8, "left"), (-6, -8, "right")),
)


def _write_sizes(plot, points, axis, front, lines):
  """Patch sizes beside their markers, those of the front first; where none of
  the places is free, none."""
  inside = plot.get_window_extent()
  pixels = plot.figure.dpi / 72
  where = {
    i: (axis.of(points[i]), 100 * points[i].top1)
    for line in lines.values()
    for i in line
  }
  taken = [
    _box(plot.transData.transform(place), 4 * pixels)
    for place in where.values()
  ]
  for i in [*front, *(i for i in where if i not in front)]:
    for right, up, align in _PLACES:
      text = plot.annotate(
        size_name(points[i].setting.patch_hw),
        where[i],
        xytext=(right, up),
        textcoords="offset points",
        ha=align,
        va="center",
        fontsize=8,
      )
      box = text.get_window_extent().padded(pixels)
      free = not any(box.overlaps(other) for other in taken)
      if free and inside.contains(*box.min) and inside.contains(*box.max):
        taken.append(box)
        break
      text.remove()


def _box(place, radius):
  return Bbox([np.subtract(place, radius), np.add(place, radius)])


KINDS = ("single size", "cascade", "ensemble")


def label(route: Route) -> str:
  """Its patch sizes, without thresholds: "12 > 8", "12 + 8", "8 px"."""
  sizes = re.sub(r" -\(.*?\)> ", " > ", route.name)
  return f"{sizes} px" if route.kind == "single size" else sizes


def draw_routes(routes: Sequence[Route]) -> Figure:
  """Top-1 in percent against the measured time of an image, a colour and a
  marker for each kind; the chosen cascade is ringed."""
  with style.drawing():
    figure = style.new_figure(3.7)
    plot = figure.add_subplot()
    for kind, colour, marker in zip(KINDS, style.COLOURS, style.MARKERS):
      own = sorted(
        (r for r in routes if r.kind == kind), key=lambda r: r.seconds
      )
      if not own:
        continue
      x = [1e6 * r.seconds for r in own]
      y = [100 * r.top1 for r in own]
      plot.plot(x, y, color=colour, marker=marker, linewidth=1, label=kind)
      for route, here, top1 in zip(own, x, y, strict=True):
        below = kind == "single size"
        plot.annotate(
          label(route),
          (here, top1),
          xytext=(0, -17 if below else 8),
          textcoords="offset points",
          ha="center",
          bbox={"facecolor": style.PAPER, "edgecolor": "none", "pad": 1},
        )
        if route.chosen:
          plot.plot(
            [here],
            [top1],
            marker="o",
            markersize=13,
            markerfacecolor="none",
            markeredgecolor=style.INK,
            linestyle="none",
            label="chosen on other images",
          )
    top1 = [100 * r.top1 for r in routes]
    middle, half = (max(top1) + min(top1)) / 2, (max(top1) - min(top1)) / 2
    # Five points at least: a tenth of a percent should not look like much.
    half = max(2.5, 1.4 * half)
    plot.set_ylim(middle - half, middle + half)
    plot.set_xscale("log")
    plot.margins(x=0.12)
    plot.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    plot.xaxis.set_major_formatter(ticker.ScalarFormatter())
    plot.xaxis.set_minor_locator(ticker.NullLocator())
    plot.set_xlabel("measured time of an image, in batches (microseconds)")
    plot.set_ylabel("top-1 accuracy (%)")
    plot.grid(alpha=0.6)
    figure.legend(loc="outside upper center", ncols=2)
  return figure
