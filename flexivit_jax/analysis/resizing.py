"""Matrices of a resize, their spectra, and what a resize loses."""

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from flexivit_jax.analysis.analysis import (
  Analysis,
  Findings,
  Given,
  Option,
  Refusal,
  whole,
)
from flexivit_jax.analysis.figures import signed_map
from flexivit_jax.analysis.resize_losses import (
  NEIGHBOURS,
  Curve,
  Matrices,
  curve,
  matrices,
)
from flexivit_jax.core.text import align
from flexivit_jax.evaluation.report.figures.style import COLOURS

ANTIALIAS = {"off": (False,), "on": (True,), "both": (False, True)}
# A pseudo-inverse of this side is a second's work; two dimensions of 64 fill a
# matrix of 4096 x 4096, more than a figure has dots.
MOST = {1: 256, 2: 64}
# A row of maps for each.
MOST_SIDES = 12
LINES = {False: "-", True: "--"}


def _name(antialias):
  return f"antialias {'on' if antialias else 'off'}"


def draw_matrices(found: Sequence[Matrices]) -> Figure:
  """B and P as maps, a row for each size, columns for B, P and antialias."""
  kinds = list(dict.fromkeys(m.antialias for m in found))
  shapes = {m.new: m.b.shape for m in found}
  sides = list(shapes)
  # In inches. Longer ones are squeezed: 8 to 64 px in two dimensions.
  heights = [min(max(0.5, 2.6 * h / w), 8) for h, w in shapes.values()]
  n = 2 * len(kinds)
  figure = Figure(
    figsize=(0.8 + 2.9 * n, 1 + sum(x + 0.65 for x in heights)),
    layout="constrained",
  )
  # The last row is that of the colour bars.
  grid = figure.subplots(
    len(sides) + 1, n, squeeze=False, height_ratios=[*heights, 0.12]
  )
  for which, name in enumerate("BP"):
    largest = max(np.abs(getattr(m, name.lower())).max() for m in found)
    for m in found:
      column = 2 * kinds.index(m.antialias) + which
      axes = grid[sides.index(m.new), column]
      image = signed_map(axes, getattr(m, name.lower()), largest)
      title = f"{name}, {m.old} to {m.new} px, {_name(m.antialias)}"
      axes.set_aspect("auto")
      axes.set_title(title, fontsize=9)
      axes.set_ylabel("new pixel", fontsize=8)
      axes.tick_params(labelsize=7)
      axes.locator_params(integer=True)
      if m.new == sides[-1]:
        axes.set_xlabel("old pixel", fontsize=8)
        bar = {"cax": grid[-1, column], "orientation": "horizontal"}
        figure.colorbar(image, label=f"entry of {name}", **bar)
  return figure


def draw_spectra(found: Sequence[Matrices]) -> Figure:
  """Singular values of every B, in order."""
  figure = Figure(figsize=(6, 4), layout="constrained")
  axes = figure.add_subplot()
  sides = list(dict.fromkeys(m.new for m in found))
  # Antialias acts on what shrinks: else both are the same, and drawn once.
  shown = {(m.new, m.antialias and m.new < m.old): m for m in found}
  # The short ones are drawn last: some lie upon longer ones.
  for m in sorted(shown.values(), key=lambda m: -len(m.singular_values)):
    how = _name(m.antialias) if m.new < m.old else "antialias on or off"
    n = len(m.singular_values)
    axes.plot(
      np.arange(1, n + 1),
      m.singular_values,
      LINES[m.antialias and m.new < m.old],
      color=COLOURS[sides.index(m.new) % len(COLOURS)],
      label=f"{m.old} to {m.new} px, {how}",
      marker="o" if n <= 32 else None,
      markersize=3,
    )
  axes.set_xlabel("index, largest first")
  axes.set_ylabel("singular value of B")
  _finish(axes)
  return figure


def draw_curves(curves: Sequence[Curve], marked: Sequence[int]) -> Figure:
  """Gain and response error against the side that a patch is resized to.

  Args:
    marked: sides with a dot.
  """
  figure = Figure(figsize=(6, 6.5), layout="constrained")
  above, below = figure.subplots(2, 1, sharex=True)
  old, sides = curves[0].old, curves[0].sides
  dots = [int(i) for i in np.flatnonzero(np.isin(sides, marked))]

  def plot(axes, values, line, colour, label):
    look = {"color": COLOURS[colour], "marker": "o", "markersize": 4}
    axes.plot(sides, values, line, label=label, markevery=dots, **look)

  # Of noise the error is the share of the space that B drops: antialias does
  # not change it.
  noise = "pixels of noise, antialias on or off"
  plot(below, curves[0].error_noise, ":", 1, noise)
  for c in curves:
    line, name = LINES[c.antialias], _name(c.antialias)
    smooth = f"neighbours correlated by {NEIGHBOURS}, {name}"
    plot(above, c.gain, line, 0, name)
    plot(below, c.error_smooth, line, 2, smooth)
  for axes in (above, below):
    axes.axvline(old, color="0.5", linewidth=1, zorder=0)
    _finish(axes)
  above.set_ylabel("gain of a smooth patch")
  below.set_ylabel("relative error of the response <x, w>")
  below.set_xlabel(f"side that a patch of {old} px is resized to (px)")
  worst = max(max(c.error_noise[sides >= old], default=0) for c in curves)
  below.annotate(
    f"from {old} px on\nat most {worst:.0e}",
    (sides[-1], 0),
    xytext=(0, 12),
    textcoords="offset points",
    ha="right",
    fontsize="small",
  )
  return figure


def _finish(axes):
  axes.set_ylim(bottom=0)
  axes.grid(alpha=0.3)
  axes.legend(fontsize="small")


def run(given, options) -> Findings:
  del given
  dimensions, new = int(options["dimensions"]), options["to"]
  old = options["from"]
  for side in (old, *new):
    if not 1 <= side <= MOST[dimensions]:
      raise Refusal(
        f"--{'from' if side == old else 'to'} {side}: give 1 to "
        f"{MOST[dimensions]} pixels with --dimensions {dimensions}"
      )
  antialias = ANTIALIAS[options["antialias"]]
  found = [
    matrices(old, side, antialias=aa, dimensions=dimensions)
    for aa in antialias
    for side in new
  ]
  # Sides from 2 on: all of them, of long ones about 64.
  ladder = np.linspace(2, max(3 * old // 2, *new), 64).round().astype(int)
  sides = [*new, *ladder.tolist()]
  curves = [curve(old, sides, antialias=aa) for aa in antialias]
  return Findings(
    {
      "resize_matrices": draw_matrices(found),
      "resize_spectra": draw_spectra(found),
      "resize_gain": draw_curves(curves, new),
    },
    dict(_numbers(found, curves)),
    (_table(curves, new),),
  )


def _sides(text) -> list[int]:
  """Parse "8,12" as [8, 12]."""
  if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", text):
    raise ValueError("give sides of square patches in pixels, 8,12,16 say")
  sides = list(dict.fromkeys(map(int, text.split(","))))
  if len(sides) > MOST_SIDES:
    raise ValueError(f"give at most {MOST_SIDES} sides")
  return sides


def _numbers(found, curves):
  for m in found:
    key = f"{m.old}_to_{m.new}_antialias_{'on' if m.antialias else 'off'}"
    yield f"B_{key}", m.b
    yield f"P_{key}", m.p
    yield f"singular_values_{key}", m.singular_values
  yield "sides", curves[0].sides
  for c in curves:
    key = f"antialias_{'on' if c.antialias else 'off'}"
    yield f"gain_{key}", c.gain
    yield f"response_error_noise_{key}", c.error_noise
    yield f"response_error_smooth_{key}", c.error_smooth


def _table(curves, sides) -> str:
  rows = [("resize", "antialias", "gain", "error, noise", "error, smooth")]
  for c in curves:
    how = "on" if c.antialias else "off"
    for side in sides:
      at = c.sides.tolist().index(side)
      errors = (f"{x[at]:.2g}" for x in (c.error_noise, c.error_smooth))
      rows.append((f"{c.old} -> {side}", how, f"{c.gain[at]:.2f}", *errors))
  return align(rows, left=1)


ANALYSIS = Analysis(
  "resize",
  "matrices of a resize, spectra, gain and response error; no checkpoint",
  Given.NOTHING,
  (
    Option("from", "stored side", "32", whole(1, MOST[1])),
    Option("to", "sides of the patches, in pixels", "8,12,16,48", _sides),
    Option(
      "antialias",
      "of B; the models here have it off",
      "both",
      choices=tuple(ANTIALIAS),
    ),
    Option(
      "dimensions",
      "matrices of one axis, or of the whole patch",
      "1",
      choices=tuple(map(str, MOST)),
    ),
  ),
  run,
)
