"""A few images through a model, a few at a time, results by image."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from flexivit_jax.analysis.activations import Activations, activations
from flexivit_jax.core.resolution import Resolution, within_grid
from flexivit_jax.core.tokens import Tokens, grid_shape, patchify
from flexivit_jax.data.packing import image_list
from flexivit_jax.models.vit import ViT
from flexivit_jax.nn.stems import stem

# Attention weights of one block that are there at once: 32 MiB in float32.
WEIGHTS_AT_ONCE = 2**23
MOST_AT_ONCE = 64


def in_rows(
  images: Sequence[np.ndarray],
  patch_hw: tuple[int, int],
  model: ViT,
  resolution: Resolution | None,
) -> Iterator[tuple[Tokens, list[int]]]:
  """Tokens, and the number of each of their images, as in `layout.places`.

  Args:
    images: `[h, w, c]` each, u8; all of one size where there is no resolution.
    resolution: the size of each image, which are then packed; as in an
      evaluation, images of more rows or columns of patches than the model has
      positions for are scaled down. None: a grid for each image; the last of
      them may be there more than once, beyond the numbers, so that all rows
      have one shape.

  Raises:
    ValueError: an image is not a whole number of patches, or images are to be
      packed for a model with a convolutional stem.
  """
  if resolution is not None:
    stem.check_packing(model.stem)
    largest = model.position.largest_grid

    def sized(image_hw, patch_hw, rng):
      hw = resolution(image_hw, patch_hw, rng)
      return hw if largest is None else within_grid(hw, patch_hw, largest)

    for tokens, placed in image_list.pack(images, patch_hw, sized, largest):
      by_place = sorted(placed, key=lambda at: (at.row, at.slot))
      yield tokens, [at.image for at in by_place]
    return
  length = math.prod(grid_shape(images[0].shape[:2], patch_hw))
  at_once = WEIGHTS_AT_ONCE // (model.size.num_heads * length**2)
  at_once = min(max(at_once, 1), MOST_AT_ONCE, len(images))
  for first in range(0, len(images), at_once):
    numbers = list(range(first, min(first + at_once, len(images))))
    filled = numbers + [numbers[-1]] * (at_once - len(numbers))
    yield patchify(np.stack([images[i] for i in filled]), patch_hw), numbers


def of_images(
  compute: Callable[[Activations, Tokens], Sequence[Any]],
  images: Sequence[np.ndarray],
  patch_hw: tuple[int, int],
  *,
  model: ViT,
  params,
  names: tuple[str, ...],
  resolution: Resolution | None = None,
) -> list[Any]:
  """What `compute` finds for each image, in the order of the images.

  Args:
    compute: from the named fields of `Activations` and the tokens to a result
      for each place.
    images, patch_hw, resolution: as for `in_rows`.
    names: as for `activations`.
  """
  found = [None] * len(images)
  for tokens, numbers in in_rows(images, patch_hw, model, resolution):
    results = compute(activations(model, params, tokens, names), tokens)
    for number, result in zip(numbers, results):
      found[number] = result
  return found


def pixels_of(
  images: Sequence[np.ndarray],
  patch_hw: tuple[int, int],
  model: ViT,
  resolution: Resolution | None,
) -> list[np.ndarray]:
  """The images as the model is given them, after they were resized."""
  found = [None] * len(images)
  for tokens, numbers in in_rows(images, patch_hw, model, resolution):
    for number, pixels in zip(numbers, to_pixels(tokens)):
      found[number] = pixels
  return found


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
