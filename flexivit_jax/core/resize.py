"""Bilinear resizing as linear maps, and PI-resize of patch embeddings.

Bilinear resizing of a patch is linear, x -> B x, and separable,
B = B_h (x) B_w. FlexiViT (arXiv:2212.08013, section 3.4) resizes the patch
embedding's kernel by w' = pinv(B^T) w, so that <B x, w'> = <x, w> for every
patch x when the patch grows, and is the least-squares compromise when it
shrinks. pinv(B^T) is separable too: two small matrices, built once on the host
in float64. The 2-D float32 pseudo-inverse of the published code is wrong where
one side grows and the other shrinks: it inverts rounding noise.
"""

import functools

import numpy as np


def triangle_weights(centres, old: int, radius, xp=np):
  """Interpolation weights of `old` samples at real-valued positions.

  Args:
    centres: `[...]`, positions on the old axis, in samples: 0 is the centre of
      the first.
    old: number of samples on the old axis.
    radius: half-width of the triangle, in samples, `[...]` or a number: 1
      interpolates, old / new > 1 averages (antialias).
    xp: numpy or jax.numpy.

  Returns:
    `[..., old]`, rows that sum to 1. Normalising also clamps at the border.
  """
  samples = xp.arange(old, dtype=centres.dtype)
  samples = samples.reshape((1,) * centres.ndim + samples.shape)
  distance = xp.abs(centres[..., None] - samples)
  radius = xp.broadcast_to(xp.asarray(radius, centres.dtype), centres.shape)
  weights = xp.maximum(0, 1 - distance / radius[..., None])
  return weights / weights.sum(axis=-1, keepdims=True)


@functools.cache
def bilinear_matrix(old: int, new: int, antialias: bool = False) -> np.ndarray:
  """B of one axis, float64 `[new, old]`: half-pixel centres.

  Equal to `tf.image.resize` (antialias off) and `jax.image.resize` (either).
  """
  for name, length in (("old", old), ("new", new)):
    if length < 1:
      raise ValueError(f"{name} length {length}: at least 1 is needed")
  centres = (np.arange(new) + 0.5) * old / new - 0.5
  radius = max(1.0, old / new) if antialias else 1.0
  return _frozen(triangle_weights(centres, old, radius))


@functools.cache
def pi_matrix(old: int, new: int, antialias: bool = False) -> np.ndarray:
  """P = pinv(B^T) of one axis, float64 `[new, old]`."""
  return _frozen(np.linalg.pinv(bilinear_matrix(old, new, antialias).T))


def _frozen(matrix):
  # Cached and shared, so nobody may write into it.
  matrix.setflags(write=False)
  return matrix


def resize_matrix(old_hw, new_hw, antialias: bool = False) -> np.ndarray:
  """B of a whole patch, `[new_h * new_w, old_h * old_w]`, to look at."""
  return np.kron(
    *(bilinear_matrix(o, n, antialias) for o, n in zip(old_hw, new_hw))
  )


def pi_resize_matrix(old_hw, new_hw, antialias: bool = False) -> np.ndarray:
  """P of a whole patch, `[new_h * new_w, old_h * old_w]`, to look at."""
  return np.kron(*(pi_matrix(o, n, antialias) for o, n in zip(old_hw, new_hw)))


def resize_grid(table: np.ndarray, new_hw, *, antialias: bool) -> np.ndarray:
  """Bilinear resizing of a table of positions.

  Args:
    table: `[rows, cols, d]`.
    new_hw: (rows, cols) of the result.

  Returns:
    `[new_rows, new_cols, d]`; the table itself where the size agrees.
  """
  if table.shape[:2] == tuple(new_hw):
    return table
  rows, cols = (
    bilinear_matrix(old, new, antialias)
    for old, new in zip(table.shape[:2], new_hw, strict=True)
  )
  return np.einsum("ir,jc,rcd->ijd", rows, cols, table, optimize=True)
