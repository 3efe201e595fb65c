"""The longest rows against the number of devices."""

from collections.abc import Mapping, Sequence

from matplotlib import ticker
from matplotlib.figure import Figure

from flexivit_jax.evaluation.report.figures import style


def draw_longest(
  lines: Mapping[str, Sequence[tuple[int, int]]],
  reference: tuple[str, Sequence[tuple[int, int]]],
  title: str,
  marks: Mapping[str, int],
  devices: Sequence[int],
) -> Figure:
  """Tokens of the longest row against devices, both in powers of two.

  Args:
    lines: (devices, tokens) of each distribution.
    reference: the same of a name, dashed.
    title: of what, and in how much memory.
    marks: lengths to compare with, by name.
    devices: that the axis names.
  """
  with style.drawing():
    figure = style.new_figure(4.0, width=5.4)
    plot = figure.add_subplot()
    name, points = reference
    plot.plot(*zip(*points), color=style.INK, linestyle="--", label=name)
    for i, (name, points) in enumerate(lines.items()):
      plot.plot(
        *zip(*points),
        color=style.COLOURS[i % len(style.COLOURS)],
        marker=style.MARKERS[i % len(style.MARKERS)],
        # Lines that lie on each other are both seen.
        markersize=8 - i,
        linewidth=1.2,
        label=name,
      )
    for name, length in marks.items():
      plot.axhline(length, color=style.INK, linewidth=0.6, linestyle=":")
      plot.annotate(
        name,
        (devices[-1], length),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        # Lines of the figure may pass behind it.
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
      )
    plot.set_xscale("log", base=2)
    plot.set_yscale("log", base=2)
    plot.xaxis.set_major_locator(ticker.FixedLocator(devices))
    plot.xaxis.set_major_formatter(ticker.FormatStrFormatter("%d"))
    plot.yaxis.set_major_formatter(ticker.FuncFormatter(_tokens))
    plot.set_xlabel("devices that share a row")
    plot.set_ylabel("longest row (tokens)")
    plot.set_title(title)
    plot.grid(alpha=0.6)
    figure.legend(loc="outside lower center", ncols=2)
  return figure


def _tokens(length: float, _) -> str:
  """ "512", "64k", "2M"; k and M are powers of 1,024, as the axis is."""
  for unit, name in ((2**20, "M"), (2**10, "k")):
    if length >= unit:
      return f"{length / unit:g}{name}"
  return f"{length:g}"
