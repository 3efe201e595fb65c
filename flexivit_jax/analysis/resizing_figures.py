"""Figures of resizes: matrices, spectra, gain and response error."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from flexivit_jax.analysis.figures import COLOURS, signed_map
from flexivit_jax.analysis.resizing import NEIGHBOURS, Curve, Matrices

LINES = {False: "-", True: "--"}


def _name(antialias):
  return f"antialias {'on' if antialias else 'off'}"


def draw_matrices(matrices: Sequence[Matrices]) -> Figure:
  """B and P as maps, a row for each size, columns for B, P and antialias."""
  kinds = list(dict.fromkeys(m.antialias for m in matrices))
  sides = list(dict.fromkeys(m.new for m in matrices))
  shapes = [next(m.b.shape for m in matrices if m.new == x) for x in sides]
  # In inches. Longer ones are squeezed: 8 to 64 px in two dimensions.
  heights = [min(max(0.5, 2.6 * rows / cols), 8) for rows, cols in shapes]
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
    chosen = [getattr(m, name.lower()) for m in matrices]
    largest = max(np.abs(x).max() for x in chosen)
    columns = [2 * i + which for i in range(len(kinds))]
    for m, x in zip(matrices, chosen, strict=True):
      axes = grid[sides.index(m.new), columns[kinds.index(m.antialias)]]
      image = signed_map(axes, x, largest)
      axes.set_aspect("auto")
      axes.set_title(
        f"{name}, {m.old} to {m.new} px, {_name(m.antialias)}", fontsize=9
      )
      axes.set_ylabel("new pixel", fontsize=8)
      axes.tick_params(labelsize=7)
      axes.locator_params(integer=True)
    for column in columns:
      grid[-2, column].set_xlabel("old pixel", fontsize=8)
      figure.colorbar(
        image,
        cax=grid[-1, column],
        orientation="horizontal",
        label=f"entry of {name}",
      )
  return figure


def draw_spectra(matrices: Sequence[Matrices]) -> Figure:
  """Singular values of every B, in order."""
  figure = Figure(figsize=(6, 4), layout="constrained")
  axes = figure.add_subplot()
  sides = list(dict.fromkeys(m.new for m in matrices))
  growing = set()
  # The short ones are drawn last: some lie upon longer ones.
  for m in sorted(matrices, key=lambda m: -len(m.singular_values)):
    name = _name(m.antialias)
    if m.new >= m.old:
      # The same with and without: it acts on what shrinks.
      if m.new in growing:
        continue
      growing.add(m.new)
      name = "antialias on or off"
    axes.plot(
      np.arange(1, len(m.singular_values) + 1),
      m.singular_values,
      LINES[m.antialias],
      color=COLOURS[sides.index(m.new) % len(COLOURS)],
      label=f"{m.old} to {m.new} px, {name}",
      marker="o" if len(m.singular_values) <= 32 else None,
      markersize=3,
    )
  axes.set_ylim(bottom=0)
  axes.set_xlabel("index, largest first")
  axes.set_ylabel("singular value of B")
  axes.grid(alpha=0.3)
  axes.legend(fontsize="small")
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
  dotted = {"marker": "o", "markevery": dots, "markersize": 4}
  # Of noise the error is the share of the space that B drops: antialias does
  # not change it.
  below.plot(
    sides,
    curves[0].error_noise,
    ":",
    color=COLOURS[1],
    label="pixels of noise, antialias on or off",
    **dotted,
  )
  for c in curves:
    line, name = LINES[c.antialias], _name(c.antialias)
    above.plot(sides, c.gain, line, color=COLOURS[0], label=name, **dotted)
    below.plot(
      sides,
      c.error_smooth,
      line,
      color=COLOURS[2],
      label=f"neighbours correlated by {NEIGHBOURS}, {name}",
      **dotted,
    )
  for axes in (above, below):
    axes.axvline(old, color="0.5", linewidth=1, zorder=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
  above.set_ylabel("gain of a smooth patch")
  below.set_ylabel("relative error of the response <x, w>")
  below.set_xlabel(f"side that a patch of {old} px is resized to (px)")
  kept = sides >= old
  worst = max(max(c.error_noise[kept], default=0) for c in curves)
  below.annotate(
    f"from {old} px on\nat most {worst:.0e}",
    (sides[-1], 0),
    xytext=(0, 12),
    textcoords="offset points",
    ha="right",
    fontsize="small",
  )
  return figure
