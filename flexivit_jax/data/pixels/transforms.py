"""Image transforms: u8 `[h, w, 3]` and a random generator in, u8 out.

Each is a frozen object that a config can name. Its randomness comes from the
generator alone, which the loader keys by (seed, epoch, example).
"""

import dataclasses
import math
from typing import Protocol

import numpy as np
from PIL import Image

from flexivit_jax.data.pixels.colour import ColorJitter, Grayscale
from flexivit_jax.data.pixels.preprocessing import ANTIALIAS, Mode
from flexivit_jax.data.pixels.rand_augment import RandAugment

# Of an image that a transform may make: 800 MB of pixels in a square.
LARGEST_SIDE = 16_384


class Transform(Protocol):
  """One step from a decoded image to a training image."""

  def __call__(
    self, image: np.ndarray, rng: np.random.Generator | None
  ) -> np.ndarray:
    """rng is None at evaluation; random transforms are refused there."""


@dataclasses.dataclass(frozen=True)
class Resize:
  """To `size` (height, width), the aspect ratio not kept."""

  size: tuple[int, int]

  def __post_init__(self):
    _check_size(self.size)

  def __call__(self, image, rng, mode: Mode = ANTIALIAS):
    del rng
    return mode.resize(image, self.size)


@dataclasses.dataclass(frozen=True)
class ResizeCrop:
  """Shorter side to `short`, aspect ratio kept, then the central `size`.

  Attributes:
    short: pixels; at least as much as either side of `size`.
    size: (height, width) of the crop.
  """

  short: int
  size: tuple[int, int]

  def __post_init__(self):
    _check_size(self.size)
    if self.short > LARGEST_SIDE:
      raise ValueError(
        f"short is {self.short}: give at most {LARGEST_SIDE} pixels"
      )
    if self.short < max(self.size):
      raise ValueError(
        f"a {self.size[0]}x{self.size[1]} crop does not fit into an image "
        f"whose shorter side is {self.short}: raise `short`"
      )

  def __call__(self, image, rng, mode: Mode = ANTIALIAS):
    del rng
    return mode.resize_crop(image, self.short, self.size)


@dataclasses.dataclass(frozen=True)
class CentralCrop:
  """The central `size` (height, width); the image is at least as large."""

  size: tuple[int, int]

  def __post_init__(self):
    _check_size(self.size)

  def __call__(self, image, rng):
    del rng
    (h, w), (crop_h, crop_w) = image.shape[:2], self.size
    if h < crop_h or w < crop_w:
      raise ValueError(
        f"a centre of {crop_h}x{crop_w} does not fit into an image of {h}x{w}: "
        "resize it first"
      )
    top, left = (h - crop_h) // 2, (w - crop_w) // 2
    return image[top : top + crop_h, left : left + crop_w]


@dataclasses.dataclass(frozen=True)
class PadSquare:
  """To a square with the image in its middle, the rest of one grey value."""

  value: int = 0

  def __post_init__(self):
    if not 0 <= self.value <= 255:
      raise ValueError(f"value is {self.value}: give 0 (black) to 255")

  def __call__(self, image, rng):
    del rng
    h, w = image.shape[:2]
    side = max(h, w)
    square = np.full((side, side, 3), self.value, np.uint8)
    top, left = (side - h) // 2, (side - w) // 2
    square[top : top + h, left : left + w] = image
    return square


@dataclasses.dataclass(frozen=True)
class InceptionCrop:
  """A random part of the image, resized (Inception, arXiv:1409.4842).

  big_vision's inception_crop has these areas and ratios too. It draws them by
  another law, TensorFlow's: the ratio uniformly, and then the height uniformly
  between those that give the smallest and the largest area.

  Attributes:
    size: (height, width) of the result.
    area: smallest and largest share of the image's area.
    ratio: smallest and largest width / height, drawn log-uniformly.
  """

  size: tuple[int, int]
  area: tuple[float, float] = (0.05, 1.0)
  ratio: tuple[float, float] = (3 / 4, 4 / 3)

  def __post_init__(self):
    _check_size(self.size)
    low, high = self.area
    if not 0 < low <= high <= 1:
      raise ValueError(f"area {self.area}: give 0 < smallest <= largest <= 1")
    _check_range("ratio", self.ratio)

  def __call__(self, image, rng, mode: Mode = ANTIALIAS):
    h, w = image.shape[:2]
    for _ in range(10):
      area = rng.uniform(*self.area) * h * w
      ratio = math.exp(rng.uniform(*map(math.log, self.ratio)))
      crop_h = round(math.sqrt(area / ratio))
      crop_w = round(math.sqrt(area * ratio))
      if 0 < crop_h <= h and 0 < crop_w <= w:
        top = int(rng.integers(h - crop_h + 1))
        left = int(rng.integers(w - crop_w + 1))
        box = (top, left, top + crop_h, left + crop_w)
        return mode.resize(image, self.size, box)
    # No draw fits a very long image: take all of it, as TensorFlow's does.
    return mode.resize(image, self.size)


@dataclasses.dataclass(frozen=True)
class Flip:
  """Mirrors left and right with probability 1/2."""

  def __call__(self, image, rng):
    return image[:, ::-1] if rng.random() < 0.5 else image


@dataclasses.dataclass(frozen=True)
class Affine:
  """Rotates, scales and shifts about the centre; what enters is black.

  Attributes:
    degrees: largest rotation either way, at most 180.
    scale: smallest and largest magnification.
    shift: largest shift, as a share of each side.
  """

  degrees: float = 10.0
  scale: tuple[float, float] = (0.9, 1.1)
  shift: float = 0.08

  def __post_init__(self):
    if not 0 <= self.degrees <= 180:
      raise ValueError(f"degrees is {self.degrees}: give 0 to 180")
    if not 0 <= self.shift <= 1:
      raise ValueError(f"shift is {self.shift}: give a share from 0 to 1")
    _check_range("scale", self.scale)

  def __call__(self, image, rng):
    h, w = image.shape[:2]
    angle, zoom, dy, dx = rng.uniform(-1, 1, 4)
    angle = math.radians(angle * self.degrees)
    low, high = self.scale
    zoom = low + (zoom + 1) / 2 * (high - low)
    # Pillow wants the map from the result's pixels to the image's.
    a, b = math.cos(angle) / zoom, math.sin(angle) / zoom
    cx, cy = w / 2, h / 2
    x, y = cx + dx * self.shift * w, cy + dy * self.shift * h
    matrix = (a, b, cx - a * x - b * y, -b, a, cy + b * x - a * y)
    turned = Image.fromarray(image).transform(
      (w, h), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    return np.asarray(turned)


def for_another_size(
  transforms: tuple[Transform, ...],
  old_hw: tuple[int, int],
  new_hw: tuple[int, int],
) -> tuple[Transform, ...]:
  """Transforms that show the same of an image at another size.

  They draw the same from a generator of the same state: what they draw does not
  depend on the sizes that they make.

  Args:
    transforms: that make images of `old_hw`.

  Raises:
    ValueError: the aspect ratio differs, or RandAugment follows what sets the
      size: either would show something else.
  """
  sized = [hasattr(x, "size") for x in transforms]
  first = sized.index(True) if True in sized else len(sized)
  if any(isinstance(x, RandAugment) for x in transforms[first:]):
    raise ValueError(
      "rand_augment moves and cuts by pixels, so images of two sizes would not "
      "show the same: put it before the transform that sets the size"
    )
  if old_hw[0] * new_hw[1] != old_hw[1] * new_hw[0]:
    raise ValueError(
      f"{new_hw[0]}x{new_hw[1]} pixels have another aspect ratio than "
      f"{old_hw[0]}x{old_hw[1]}"
    )

  def scaled(side):
    return max(1, round(side * new_hw[0] / old_hw[0]))

  found = []
  for transform in transforms:
    changes = {
      f.name: tuple(map(scaled, value))
      if isinstance(value := getattr(transform, f.name), tuple)
      else scaled(value)
      for f in dataclasses.fields(transform)
      if f.name in ("size", "short")
    }
    found.append(dataclasses.replace(transform, **changes))
  if not any(hasattr(x, "size") for x in transforms):
    found.append(Resize(new_hw))
  return tuple(found)


def _check_size(size):
  if not 1 <= min(size) <= max(size) <= LARGEST_SIDE:
    raise ValueError(
      f"size {tuple(size)}: give (height, width), each of 1 to {LARGEST_SIDE} "
      "pixels"
    )


def _check_range(name, pair):
  # Beyond a hundredfold no image is left, or every crop is refused.
  if not 0.01 <= pair[0] <= pair[1] <= 100:
    raise ValueError(
      f"{name} {tuple(pair)}: give 0.01 <= smallest <= largest <= 100"
    )


RANDOM = (InceptionCrop, Flip, Affine, ColorJitter, Grayscale, RandAugment)

# What resizes, so that it takes a mode as well.
RESIZING = (Resize, ResizeCrop, InceptionCrop)

# What takes arrays of any numbers and channels; the others take pictures.
OF_ANY_ARRAY = (CentralCrop, Flip)

# What gives an image another size, or another aspect ratio.
SIZING = (Resize, ResizeCrop, CentralCrop, PadSquare, InceptionCrop)
