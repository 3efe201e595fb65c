"""Accuracy against cost, of single settings and of cascades."""

import dataclasses
import re
from collections.abc import Sequence

from matplotlib import ticker
from matplotlib.figure import Figure

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


def draw_curve(points: Sequence[Point], axis: Axis) -> Figure:
  """Draw top-1 in percent against a cost, on a logarithmic axis.

  A line for each resolution or budget, a marker for each patch size, filled
  and named where the point is on the Pareto front.
  """
  front = {*deploy.pareto(points, axis.cost)}
  lines: dict[str, list[int]] = {}
  for i, point in enumerate(points):
    if axis.of(point) is not None:
      lines.setdefault(deploy.describe_at(point.setting), []).append(i)
  with style.drawing():
    figure = style.new_figure(3.7)
    plot = figure.add_subplot()
    for number, (at, members) in enumerate(lines.items()):
      own = sorted(members, key=lambda i: axis.of(points[i]))
      _line(
        plot,
        [(axis.of(points[i]), 100 * points[i].top1) for i in own],
        number,
        label=at,
        names=[
          size_name(points[i].setting.patch_hw) if i in front else ""
          for i in own
        ],
        filled=[k for k, i in enumerate(own) if i in front],
      )
    _frame(figure, plot, f"{axis.label}\nat the points: patch size (px)")
  return figure


def draw_routes(routes: Sequence[Route]) -> Figure:
  """Draw top-1 in percent against the measured time of an image.

  A line for the single sizes and one for the cascades; the chosen one is
  filled.
  """
  with style.drawing():
    figure = style.new_figure(3.7)
    plot = figure.add_subplot()
    for number, kind in enumerate(("single size", "cascade")):
      own = [route for route in routes if route.kind == kind]
      own.sort(key=lambda route: route.seconds)
      chosen = [k for k, route in enumerate(own) if route.chosen]
      _line(
        plot,
        [(1e6 * route.seconds, 100 * route.top1) for route in own],
        number,
        label=kind + (", the chosen one filled" if chosen else ""),
        # Patch sizes without thresholds: "12 > 8".
        names=[re.sub(r" -\(.*?\)> ", " > ", route.name) for route in own],
        filled=chosen,
      )
    _frame(figure, plot, "measured time of an image, in batches (microseconds)")
  return figure


def _line(plot, places, number, *, label, names, filled):
  """Markers that are joined, those of `filled` filled, each with its name."""
  if not places:
    return
  colour = style.COLOURS[number % len(style.COLOURS)]
  marker = style.MARKERS[number % len(style.MARKERS)]
  x, y = zip(*places)
  plot.plot(
    x, y, color=colour, marker=marker, markerfacecolor=style.PAPER, label=label
  )
  chosen = [places[k] for k in filled]
  if chosen:
    plot.plot(*zip(*chosen), color=colour, marker=marker, linestyle="none")
  for name, place in zip(names, places, strict=True):
    plot.annotate(
      name,
      place,
      # Every second line has its names below: less of them meet.
      xytext=(0, -13 if number % 2 else 6),
      textcoords="offset points",
      ha="center",
      fontsize=8,
    )


def _frame(figure, plot, label):
  low, high = plot.get_ylim()
  # At least ten points high: a tenth of a percent should not look like much.
  room = max(0, 10 - (high - low)) / 2
  above = max(0, high + room - 104)
  plot.set_ylim(low - room - above, high + room - above)
  plot.set_xscale("log")
  plot.margins(x=0.1)
  low, high = plot.get_xlim()
  subs = (1, 2, 5) if high < 1e3 * low else (1,)
  plot.xaxis.set_major_locator(ticker.LogLocator(subs=subs))
  plot.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g}"))
  plot.xaxis.set_minor_locator(ticker.NullLocator())
  plot.set_xlabel(label)
  plot.set_ylabel("top-1 accuracy (%)")
  plot.grid(alpha=0.6)
  figure.legend(loc="outside upper center", ncols=3)
