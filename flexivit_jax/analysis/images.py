"""A few images through a model, results by image, on grids or packed."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from flexivit_jax.analysis.activations import Activations, activations
from flexivit_jax.analysis.analysis import Option, patch_sizes, whole
from flexivit_jax.core.errors import Fault
from flexivit_jax.core.resolution import Resolution, within_grid
from flexivit_jax.core.tokens import Tokens, grid_shape, patchify
from flexivit_jax.data.loading.example import Example
from flexivit_jax.data.packing import image_list
from flexivit_jax.data.pixels.decode import BadImageError
from flexivit_jax.models.vit import ViT
from flexivit_jax.nn.stems import stem

# Attention weights of one block that are there at once: 32 MiB in float32.
WEIGHTS_AT_ONCE = 2**23
MOST_AT_ONCE = 64
# Images in a figure that shows each.
MOST_DRAWN = 64
PATCH_SIZES = Option(
  "patch_sizes",
  "4,6,8x6; default: those that it was trained at, or is used at",
  parse=patch_sizes,
)
PATCH_SIZE = Option(
  "patch_size",
  "16 or 16x12; default: the smallest that it was trained at, or the one that "
  "it is used at",
  parse=lambda text: patch_sizes(text.replace(",", "?")),
)


def count(default: int, least: int = 1, most: int | None = None) -> Option:
  """The option of how many images are looked at."""
  return Option(
    "images",
    "how many, spread evenly over the data",
    str(default),
    whole(least, most),
  )


class Place(NamedTuple):
  """The place of an image in its `Tokens`.

  Attributes:
    row, slot: in its `Tokens`; slots count from 0.
    own: i64 `[n]`, tokens of the row that are its patches.
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
  """Values of patches, where each patch lies in its image.

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
  for image, (ph, pw) in zip(restored, patch_sizes_of(tokens), strict=True):
    rows, cols, *_ = image.shape
    image = image[:, :, :ph, :pw].swapaxes(1, 2)
    images.append(image.reshape(rows * ph, cols * pw, -1))
  return images


def patch_sizes_of(tokens: Tokens) -> list[tuple[int, int]]:
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


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
  """A model, and images at patch sizes that it can be given.

  Attributes:
    images: u8 `[h, w, 3]` each; of one size where there is no resolution.
    numbers: of the images in their data.
    resolution: the size of each image, which are then packed.
    sizes: of patches, in pixels.
    data: name of the images' data.
  """

  model: ViT
  params: Any
  images: list[np.ndarray]
  numbers: list[int]
  resolution: Resolution | None
  sizes: list[tuple[int, int]]
  data: str = ""

  def of_images(
    self,
    compute: Callable[[Activations, Tokens], Sequence[Any]],
    patch_hw: tuple[int, int],
    names: tuple[str, ...],
  ) -> list[Any]:
    """Results of `compute` for each image, in the order of the images.

    Args:
      compute: from the named fields of `Activations` and the tokens to a
        result for each place.
      names: as for `activations`.
    """

    def of_tokens(tokens):
      found = activations(self.model, self.params, tokens, names)
      return compute(found, tokens)

    return self._by_image(of_tokens, patch_hw)

  def pixels(self, patch_hw) -> list[np.ndarray]:
    """The images as the model is given them, after they were resized."""
    return self._by_image(to_pixels, patch_hw)

  def _by_image(self, compute, patch_hw):
    found = [None] * len(self.images)
    for tokens, numbers in self.in_rows(patch_hw):
      for number, result in zip(numbers, compute(tokens)):
        found[number] = result
    return found

  def grids(self, patch_hw) -> list[tuple[int, int]]:
    """(rows, cols) of patches of each image."""
    return [grid_shape(x.shape[:2], patch_hw) for x in self.pixels(patch_hw)]

  def in_rows(self, patch_hw) -> Iterator[tuple[Tokens, list[int]]]:
    """Tokens, and the number of each of their images, as in `places`.

    Without a resolution the last image may be there more than once, beyond
    the numbers, so that all rows have one shape. With one, as in an
    evaluation, images of more patches than the model has positions for are
    scaled down.

    Raises:
      ValueError: an image is not a whole number of patches, or images are to
        be packed for a model with a convolutional stem.
    """
    images, model = self.images, self.model
    if self.resolution is not None:
      yield from self._packed(patch_hw)
      return
    length = math.prod(grid_shape(images[0].shape[:2], patch_hw))
    at_once = WEIGHTS_AT_ONCE // (model.size.num_heads * length**2)
    at_once = min(max(at_once, 1), MOST_AT_ONCE, len(images))
    for first in range(0, len(images), at_once):
      numbers = list(range(first, min(first + at_once, len(images))))
      filled = numbers + [numbers[-1]] * (at_once - len(numbers))
      yield patchify(np.stack([images[i] for i in filled]), patch_hw), numbers

  def _packed(self, patch_hw):
    stem.check_packing(self.model.stem)
    largest = self.model.position.largest_grid

    def sized(image_hw, patch_hw, rng):
      hw = self.resolution(image_hw, patch_hw, rng)
      return hw if largest is None else within_grid(hw, patch_hw, largest)

    packed = image_list.pack(self.images, patch_hw, sized, largest)
    for tokens, placed in packed:
      by_place = sorted(placed, key=lambda at: (at.row, at.slot))
      yield tokens, [at.image for at in by_place]

  def __str__(self):
    return f"{len(self.images)} images of {self.data}"


def evenly(source, transforms, count: int, *, one_size: bool):
  """So many images, spread evenly over a source, and their numbers.

  Raises:
    Fault: an image cannot be decoded.
  """
  count = min(count, len(source))
  numbers = np.linspace(0, len(source) - 1, count).round().astype(int).tolist()
  example, images = Example(source, transforms), []
  for number in numbers:
    try:
      images.append(example(number, None)[0])
    except BadImageError as e:
      raise Fault(f"{e}; mend it, or move it out of the data") from e
    if one_size:
      example = dataclasses.replace(example, shape=images[0].shape)
  return images, numbers
