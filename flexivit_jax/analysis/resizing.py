"""What resizing a patch, and PI-resizing its kernel, keeps and loses.

B resizes a patch x of p x p pixels to q x q, P = pinv(B^T) the kernel w
(FlexiViT, arXiv:2212.08013, section 3.4). Both are Kronecker products of one
matrix for each side, so everything here is found from one side's.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.figure import Figure

from flexivit_jax.analysis.figures import signed_map
from flexivit_jax.core import pi_resize, resize
from flexivit_jax.evaluation.report.figures.style import COLOURS

# About what neighbouring pixels of photographs correlate by, as image coding
# takes it to be.
NEIGHBOURS = 0.95


@dataclasses.dataclass(frozen=True, eq=False)
class Matrices:
  """The two matrices of one resize.

  Attributes:
    old, new: sides of the patch before and after, in pixels.
    antialias: of B.
    b, p: float64 `[n, m]`: for one dimension m = old and n = new, for two
      their squares, pixels row by row.
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
  """B and P of one axis, or of a whole square patch.

  Args:
    dimensions: 1, or 2 for the whole patch.
  """
  b = resize.bilinear_matrix(old, new, antialias)
  values = np.linalg.svd(b, compute_uv=False)
  if dimensions == 1:
    p = resize.pi_matrix(old, new, antialias)
    return Matrices(old, new, antialias, b, p, values)
  sizes = (old, old), (new, new)
  return Matrices(
    old,
    new,
    antialias,
    resize.resize_matrix(*sizes, antialias),
    resize.pi_resize_matrix(*sizes, antialias),
    np.sort(np.outer(values, values).ravel())[::-1],
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
  """What is kept of a response <x, w> at each side that a patch may get.

  Attributes:
    old: side of the patch at which the kernel is stored, in pixels.
    antialias: of B.
    sides: `[n]`, of the resized patch.
    gain, error_noise, error_smooth: float64 `[n]`, see `gain` and
      `response_error`: of patches of noise, and of patches whose neighbouring
      pixels correlate by `NEIGHBOURS`.
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
  rows = [
    (
      gain(old, int(new), antialias=antialias),
      response_error(old, int(new), antialias=antialias, correlation=0),
      response_error(
        old, int(new), antialias=antialias, correlation=NEIGHBOURS
      ),
    )
    for new in sides
  ]
  return Curve(old, antialias, sides, *np.array(rows).T)


def gain(old: int, new: int, *, antialias: bool) -> float:
  """Response of a resized smooth kernel to a patch of ones, as a share of what
  it was: <B 1, P w> / <1, w>, for the Hann window w.

  1 where nothing is lost. Without antialias B reads, where it shrinks by more
  than 2, only some of the pixels; P w does not make up for it.
  """
  window = np.hanning(old + 2)[1:-1]
  kernel = np.outer(window, window)[..., None, None]
  resized = pi_resize.pi_resize(kernel, (new, new), antialias=antialias)
  return float(resized.sum() / kernel.sum())


def response_error(
  old: int, new: int, *, antialias: bool, correlation: float
) -> float:
  """How far <B x, P w> is from <x, w>: root mean square of the difference, as a
  share of that of <x, w> itself.

  The mean is over kernels w of independent pixels and over patches x of mean 0
  whose pixels, k apart along an axis, correlate by correlation^k. It is exact,
  nothing is drawn. With A = B^T P of one side, a projection, E = A - 1 and C
  the covariance, the difference is that of A (x) A - 1 = E (x) A + 1 (x) E, and
  since E A = 0 its mean square is tr(E C E) (tr(A C A) + tr(C)). No large terms
  cancel, so what is exact comes out as 1e-15.

  Args:
    correlation: of neighbouring pixels: 0 for noise, below 1.
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
