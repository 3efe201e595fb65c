"""Losses of resizing a patch, and of PI-resizing its kernel.

B resizes a patch x of p x p pixels to q x q, P = pinv(B^T) the kernel w
(FlexiViT, arXiv:2212.08013, section 3.4). Both are Kronecker products of one
matrix for each side, so everything here is found from one side's.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence

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
from flexivit_jax.core import pi_resize, resize
from flexivit_jax.core.text import align
from flexivit_jax.evaluation.report.figures.style import COLOURS

# About what neighbouring pixels of photographs correlate by, as image coding
# takes it to be.
NEIGHBOURS = 0.95
ANTIALIAS = {"off": (False,), "on": (True,), "both": (False, True)}
# A pseudo-inverse of this side is a second's work; two dimensions of 64 fill a
# matrix of 4096 x 4096, more than a figure has dots.
MOST = {1: 256, 2: 64}
# A row of maps for each.
MOST_SIDES = 12
LINES = {False: "-", True: "--"}


@dataclasses.dataclass(frozen=True, eq=False)
class Matrices:
  """The two matrices of one resize.

  Attributes:
    old, new: sides of the patch before and after, in pixels.
    antialias: of B.
    b, p: f64 `[n, m]`: for one dimension m = old and n = new, for two their
      squares, pixels row by row.
    singular_values: of b, `[min(m, n)]`, the largest first.
  """

  old: int
  new: int
  antialias: bool
  b: np.ndarray
  p: np.ndarray
  singular_values: np.ndarray


def matrices(
  old: int, new: int, *, antialias: bool, dimensions: int = 1
) -> Matrices:
  """B and P of one axis, or of a whole square patch: of two dimensions."""
  b = resize.bilinear_matrix(old, new, antialias)
  values = np.linalg.svd(b, compute_uv=False)
  if dimensions == 1:
    p = resize.pi_matrix(old, new, antialias)
  else:
    sizes = (old, old), (new, new)
    b = resize.resize_matrix(*sizes, antialias)
    p = resize.pi_resize_matrix(*sizes, antialias)
    values = np.sort(np.outer(values, values).ravel())[::-1]
  return Matrices(old, new, antialias, b, p, values)


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
  """Shares of a response <x, w> that are kept, by side of the patch.

  Attributes:
    old: side of the patch at which the kernel is stored, in pixels.
    sides: `[n]`, of the resized patch.
    gain: f64 `[n]`, see `gain`.
    error_noise, error_smooth: f64 `[n]`, see `response_error`: of noise, and
      of patches whose neighbouring pixels correlate by `NEIGHBOURS`.
  """

  old: int
  antialias: bool
  sides: np.ndarray
  gain: np.ndarray
  error_noise: np.ndarray
  error_smooth: np.ndarray


def curve(old: int, sides: Iterable[int], *, antialias: bool) -> Curve:
  """Gain and response error of square patches of every side."""
  sides = np.array(sorted(set(sides)))
  rows = []
  for new in sides.tolist():
    errors = (
      response_error(old, new, antialias=antialias, correlation=c)
      for c in (0, NEIGHBOURS)
    )
    rows.append((gain(old, new, antialias=antialias), *errors))
  return Curve(old, antialias, sides, *np.array(rows).T)


def gain(old: int, new: int, *, antialias: bool) -> float:
  """<B 1, P w> / <1, w> for the Hann window w: the share that is kept of a
  smooth kernel's response to a patch of ones.

  Without antialias B reads, where it shrinks by more than 2, only some of the
  pixels; P w does not make up for it.
  """
  window = np.hanning(old + 2)[1:-1]
  kernel = np.outer(window, window)[..., None, None]
  resized = pi_resize.pi_resize(kernel, (new, new), antialias=antialias)
  return float(resized.sum() / kernel.sum())


def response_error(
  old: int, new: int, *, antialias: bool, correlation: float
) -> float:
  """Root mean square of <B x, P w> - <x, w>, as a share of that of <x, w>.

  The mean is over kernels w of independent pixels and over patches x of mean 0
  whose pixels, k apart along an axis, correlate by correlation^k, below 1. It
  is exact. With A = B^T P of one side, a projection, E = A - 1 and C the
  covariance, the difference is that of E (x) A + 1 (x) E, and since E A = 0 its
  mean square is tr(E C E) (tr(A C A) + tr(C)). No large terms cancel, so what
  is exact comes out as 1e-15.
  """
  # <B x, P w> = <x, B^T P w> = <x, A w>.
  a = resize.bilinear_matrix(old, new, antialias).T @ resize.pi_matrix(
    old, new, antialias
  )
  e = a - np.eye(old)
  places = np.arange(old)
  c = float(correlation) ** np.abs(places[:, None] - places)
  lost, kept = np.trace(e @ c @ e.T), np.trace(a @ c @ a.T)
  # <x, w> itself has mean square tr(C)^2 = old^2.
  return float(np.sqrt(lost * (kept + old)) / old)


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
