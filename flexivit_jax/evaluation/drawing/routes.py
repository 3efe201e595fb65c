"""Cascades and ensembles beside single sizes."""

import re
from collections.abc import Sequence

from matplotlib import ticker
from matplotlib.figure import Figure

from flexivit_jax.evaluation.drawing import style
from flexivit_jax.evaluation.points import Route

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
