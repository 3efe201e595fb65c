"""From rows of tokens back to images, on grids and in packed rows."""

from typing import NamedTuple

import numpy as np

from flexivit_jax.core.tokens import Tokens


class Place(NamedTuple):
  """Where an image is.

  Attributes:
    row, slot: in its `Tokens`; slots count from 0.
    own: i64 `[n]`, which tokens of the row are its patches.
  """

  row: int
  slot: int
  own: np.ndarray


def places(tokens: Tokens) -> list[Place]:
  """Each image, by row and then by slot; empty slots are left out."""
  b, l = tokens.patches.shape[:2]
  if tokens.segments is None:
    return [Place(row, 0, np.arange(l)) for row in range(b)]
  segments = _rows(tokens.segments, b)
  return [
    Place(row, int(number) - 1, np.flatnonzero(segments[row] == number))
    for row in range(b)
    for number in np.unique(segments[row])
    if number
  ]


def to_images(tokens: Tokens, x) -> list[np.ndarray]:
  """What belongs to each patch, where the patch lies in its image.

  Args:
    tokens: with patches in any order in their row.
    x: `[b, l, ...]`, a value or a vector for each patch.

  Returns:
    `[rows, cols, ...]` for each image, in the order of `places`; NaN where a
    patch is missing, as after token dropping (0 in whole numbers).
  """
  x = np.asarray(x)
  coords, grid_hw = (
    _rows(values, len(x)) for values in (tokens.coords, tokens.grid_hw)
  )
  missing = np.nan if np.issubdtype(x.dtype, np.floating) else 0
  images = []
  for row, _, own in places(tokens):
    image = np.full((*grid_hw[row, own[0]], *x.shape[2:]), missing, x.dtype)
    image[tuple(coords[row, own].T)] = x[row, own]
    images.append(image)
  return images


def to_pixels(tokens: Tokens) -> list[np.ndarray]:
  """The images that the patches are of, `[h, w, c]` each, as in `places`."""
  h, w = (max(sides) for sides in zip(*tokens.patch_sizes))
  b, l, _ = tokens.patches.shape
  patches = np.asarray(tokens.patches).reshape(b, l, h, w, -1)
  images = []
  restored = to_images(tokens, patches)
  for image, (ph, pw) in zip(restored, patch_sizes(tokens), strict=True):
    rows, cols, *_ = image.shape
    image = image[:, :, :ph, :pw].swapaxes(1, 2)
    images.append(image.reshape(rows * ph, cols * pw, -1))
  return images


def patch_sizes(tokens: Tokens) -> list[tuple[int, int]]:
  """(height, width) in pixels of each image's patches, as in `places`."""
  found = places(tokens)
  if tokens.size_index is None:
    return [tokens.patch_sizes[0]] * len(found)
  index = _rows(tokens.size_index, len(tokens.patches))
  return [tokens.patch_sizes[index[row, own[0]]] for row, _, own in found]


def _rows(x, b):
  """`[b or 1, ...]` with b rows."""
  x = np.asarray(x)
  return np.broadcast_to(x, (b, *x.shape[1:]))
