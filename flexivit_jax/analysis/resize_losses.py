"""Losses of resizing a patch, and of PI-resizing its kernel.

B resizes a patch x of p x p pixels to q x q, P = pinv(B^T) the kernel w
(FlexiViT, arXiv:2212.08013, section 3.4). Both are Kronecker products of one
matrix for each side, so everything here is found from one side's.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from flexivit_jax.core import pi_resize, resize

# About what neighbouring pixels of photographs correlate by, as image coding
# takes it to be.
NEIGHBOURS = 0.95


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
