"""What resizing a patch, and PI-resizing its kernel, keeps and loses.

B resizes a patch x of p x p pixels to q x q, P = pinv(B^T) the kernel w
(FlexiViT, arXiv:2212.08013, section 3.4). Both are Kronecker products of one
matrix for each side, so everything here is found from one side's.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from flexivit_jax.core import resize

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
  resized = resize.pi_resize(kernel, (new, new), antialias=antialias)
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
