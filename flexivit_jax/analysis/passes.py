"""A few images through a model, a few at a time, results by image."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from flexivit_jax.analysis import layout
from flexivit_jax.analysis.activations import Activations, activations
from flexivit_jax.core.resolution import Resolution, within_grid
from flexivit_jax.core.tokens import Tokens, grid_shape, patchify
from flexivit_jax.data import image_list
from flexivit_jax.nn import stems
from flexivit_jax.nn.vit import ViT

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
    stems.check_packing(model.stem)
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
    for number, pixels in zip(numbers, layout.to_pixels(tokens)):
      found[number] = pixels
  return found
