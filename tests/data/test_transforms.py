"""Transforms: identities, geometry, statistics, refusals."""

import math
import re

import numpy as np
import pytest

from flexivit_jax.data.pixels import rand_augment
from flexivit_jax.data.pixels import resize as resize_lib
from flexivit_jax.data.pixels import transforms as transforms_lib
from flexivit_jax.data.pixels.colour import ColorJitter, Grayscale
from flexivit_jax.data.pixels.transforms import (
  Affine,
  CentralCrop,
  Flip,
  InceptionCrop,
  PadSquare,
  Resize,
  ResizeCrop,
)


def rng(seed=0):
  return np.random.default_rng(seed)


def noise(h=9, w=14):
  return rng(7).integers(0, 256, (h, w, 3), dtype=np.uint8)


def draw(text):
  """Digits as grey values: "09" is a black and a white pixel."""
  rows = [[int(x) * 28 for x in row] for row in text.split()]
  return np.repeat(np.array(rows, np.uint8)[..., None], 3, axis=-1)


def blob(h, w, centre):
  """A soft spot: its centre of mass survives resampling."""
  row, col = (
    np.exp(-((np.arange(n) + 0.5 - c) ** 2) / 8)
    for n, c in zip((h, w), centre, strict=True)
  )
  grey = np.round(255 * np.outer(row, col)).astype(np.uint8)
  return np.repeat(grey[..., None], 3, axis=-1)


def centre_of_mass(image):
  mass = image[..., 0].astype(float)
  return np.array(
    [
      (mass.sum(axis=1 - axis) * (np.arange(n) + 0.5)).sum() / mass.sum()
      for axis, n in enumerate(mass.shape)
    ]
  )


@pytest.mark.parametrize(
  "transform",
  [
    Resize((5, 6)),
    ResizeCrop(8, (5, 6)),
    CentralCrop((5, 6)),
    InceptionCrop((5, 6)),
    Flip(),
    Affine(),
    ColorJitter(),
    Grayscale(0.5),
    rand_augment.RandAugment(2, 3),  # more would leave nothing of few pixels
  ],
  ids=lambda t: type(t).__name__,
)
def test_randomness_comes_from_the_generator_alone(transform):
  before = noise()
  results = [transform(before, rng(seed)).tobytes() for seed in range(8)]
  again = [transform(noise(), rng(seed)).tobytes() for seed in range(8)]
  assert results == again
  random = len(set(results)) > 1
  assert random == isinstance(transform, transforms_lib.RANDOM)
  np.testing.assert_array_equal(before, noise())  # nothing in place
  result = transform(before, rng())
  assert result.dtype == np.uint8
  size = getattr(transform, "size", before.shape[:2])
  assert result.shape == (*size, 3)


def test_resize_gives_height_and_width():
  assert Resize((3, 20))(noise(), None).shape == (3, 20, 3)
  np.testing.assert_array_equal(Resize((9, 14))(noise(), None), noise())


def test_resize_crop_takes_the_centre():
  wide = draw("01234567 12345678 23456789 01234567")
  cut = ResizeCrop(4, (4, 4))(wide, None)
  np.testing.assert_array_equal(cut, draw("2345 3456 4567 2345"))
  cut = ResizeCrop(4, (2, 4))(wide, None)
  np.testing.assert_array_equal(cut, draw("3456 4567"))
  cut = ResizeCrop(4, (4, 2))(wide.swapaxes(0, 1), None)
  np.testing.assert_array_equal(cut, draw("34 45 56 67"))


def test_central_crop_is_a_slice():
  image = np.arange(7 * 9 * 3, dtype=np.uint8).reshape(7, 9, 3)
  for size, part in (((4, 9), image[1:5]), ((7, 3), image[:, 3:6])):
    cut = CentralCrop(size)(image, None)
    np.testing.assert_array_equal(cut, part)


def test_pad_square_puts_the_image_in_the_middle():
  image = np.full((1, 3, 3), 7, np.uint8)
  padded = PadSquare(2)(image, None)
  assert padded[..., 0].tolist() == [[2, 2, 2], [7, 7, 7], [2, 2, 2]]
  # What is left over where the middle is between two pixels is below.
  padded = PadSquare()(image[:, :2].swapaxes(0, 1), None)
  assert padded[..., 1].tolist() == [[7, 0], [7, 0]]
  assert PadSquare(9)(image[:, :1], None).tolist() == [[[7, 7, 7]]]


def test_resize_crop_scales_the_shorter_side():
  # 8x16 at half the size is 4x8; its centre is what a crop of the whole takes.
  image = noise(8, 16)
  cut = ResizeCrop(4, (4, 4))(image, None)
  expected = resize_lib.resize(image, (4, 4), (0, 4, 8, 12))
  np.testing.assert_array_equal(cut, expected)


def test_resize_crop_takes_images_of_every_side():
  # The crop is as large as the image allows, and rounding must not push it
  # over the edge.
  transform = ResizeCrop(240, (240, 240))
  for side in range(1, 200):
    image = np.full((side, side + side % 3, 3), 9, np.uint8)
    assert transform(image, None).shape == (240, 240, 3)


def crops(monkeypatch, transform, image, n):
  """The boxes (top, left, bottom, right) of n crops."""
  boxes = []

  def resize(image, hw, box=None):
    assert tuple(hw) == transform.size
    boxes.append(box)
    return np.zeros((*hw, 3), np.uint8)

  monkeypatch.setattr(resize_lib, "resize", resize)
  for seed in range(n):
    transform(image, rng(seed))
  return np.array(boxes, float)


def test_inception_crops_have_the_areas_and_ratios_asked_for(monkeypatch):
  n, h, w = 500, 300, 200
  # The largest, 0.4 of the area at ratio 5/4, fits: no draw is rejected, so
  # areas and log-ratios stay uniform.
  transform = InceptionCrop((8, 6), area=(0.1, 0.4), ratio=(0.5, 1.25))
  boxes = crops(monkeypatch, transform, np.zeros((h, w, 3), np.uint8), n)
  top, left, bottom, right = boxes.T
  height, width = bottom - top, right - left
  for values, low, high in (
    (height * width / (h * w), 0.1, 0.4),
    (np.log(width / height), math.log(0.5), math.log(1.25)),
    # A place is uniform over what the crop leaves.
    (top / (h - height), 0, 1),
    (left / (w - width), 0, 1),
  ):
    # Four standard errors of the mean of a uniform variable.
    error = 4 * (high - low) / math.sqrt(12 * n)
    assert abs(values.mean() - (low + high) / 2) <= error
    # A uniform one of 500 comes within 3 % of both ends, and beyond them only
    # by the rounding of sides to whole pixels, of at least 69: 0.7 % each.
    end, edge = 0.03 * (high - low), 0.015 * (low != 0)
    assert low - edge <= values.min() <= low + end
    assert high - end <= values.max() <= high + edge


def test_an_inception_crop_of_a_strip_takes_all_of_it():
  strip = noise(2, 200)
  # Half of 400 pixels in a square are 14x14: taller than the strip.
  transform = InceptionCrop((4, 8), area=(0.5, 1.0))
  expected = resize_lib.resize(strip, (4, 8))
  np.testing.assert_array_equal(transform(strip, rng()), expected)


def test_flip_mirrors_half_of_the_images():
  image = draw("0123 4567")
  mirrored = draw("3210 7654")
  flips = 0
  for seed in range(400):
    result = Flip()(image, rng(seed))
    same = np.array_equal(result, image)
    assert same or np.array_equal(result, mirrored)
    flips += not same
  # Four standard deviations of a fair coin, sqrt(400) / 2 = 10 each.
  assert abs(flips - 200) <= 40


def test_affine_without_change_is_the_identity():
  transform = Affine(degrees=0, scale=(1, 1), shift=0)
  for h, w in ((9, 14), (8, 8), (1, 3)):
    for seed in range(5):
      np.testing.assert_array_equal(
        transform(noise(h, w), rng(seed)), noise(h, w)
      )


def test_what_enters_is_black():
  white = np.full((16, 16, 3), 255, np.uint8)
  transform = Affine(degrees=0, scale=(0.5, 0.5), shift=0)
  expected = np.zeros_like(white)
  expected[4:12, 4:12] = 255
  np.testing.assert_array_equal(transform(white, rng()), expected)


def shown(transforms, seed):
  """One smooth image, as wide as high, through transforms."""
  y, x = np.mgrid[:120, :160] / 120
  image = np.stack([x, y, (x + y) / 3], -1) * 255
  rng = np.random.default_rng(seed)
  image = image.astype(np.uint8)
  for transform in transforms:
    image = transform(image, rng)
  return image.astype(np.float64)


@pytest.mark.parametrize(
  "transforms",
  [
    (InceptionCrop((24, 24)), Flip()),
    (ResizeCrop(28, (24, 24)), Affine()),
    (
      Resize((28, 28)),
      CentralCrop((24, 24)),
      Flip(),
    ),
    (rand_augment.RandAugment(2, 10), Resize((24, 24))),
  ],
)
def test_another_size_shows_the_same(transforms):
  scaled = transforms_lib.for_another_size(transforms, (24, 24), (72, 72))
  far = []
  for seed in range(8):
    small, large = shown(transforms, seed), shown(scaled, seed)
    assert (small.shape, large.shape) == ((24, 24, 3), (72, 72, 3))
    means = large.reshape(24, 3, 24, 3, 3).mean((1, 3))
    # Edges of crops and turned corners fall between pixels.
    assert np.abs(means - small)[3:-3, 3:-3].mean() < 6
    far.append(np.abs(shown(transforms, seed + 1) - small).mean())
  assert np.median(far) > 10 or isinstance(transforms[0], Resize)


def test_another_size_of_images_that_no_transform_sizes():
  found = transforms_lib.for_another_size((Flip(),), (24, 24), (48, 48))
  assert found == (Flip(), Resize((48, 48)))


@pytest.mark.parametrize(
  ("name", "fields", "text"),
  [
    ("PadSquare", {"value": 256}, "value is 256: give 0 (black) to 255"),
    ("ResizeCrop", {"short": 24, "size": (20, 28)}, "24: raise `short`"),
    ("ResizeCrop", {"short": 16_385, "size": (8, 8)}, "at most 16384 pixels"),
    ("ResizeCrop", {"short": 24, "size": (0, 8)}, "each of 1 to 16384 pixels"),
    ("Resize", {"size": (8, 10**9)}, "each of 1 to 16384 pixels"),
    ("CentralCrop", {"size": (-1, 8)}, "each of 1 to 16384 pixels"),
    ("InceptionCrop", {"size": (8, 0)}, "each of 1 to 16384 pixels"),
    *(
      (
        "InceptionCrop",
        {"size": (8, 8), "area": area},
        f"area {area}: give 0 < smallest <= largest <= 1",
      )
      for area in ((0.0, 1.0), (0.5, 0.2), (0.5, 1.1), (math.nan, 1.0))
    ),
    # No such crop fits any image, so each would be the whole image.
    ("InceptionCrop", {"size": (8, 8), "ratio": (1e9, 1e9)}, "give 0.01 <= s"),
    ("Affine", {"degrees": 181.0}, "degrees is 181.0: give 0 to 180"),
    ("Affine", {"shift": 1.5}, "shift is 1.5: give a share from 0 to 1"),
    ("Affine", {"scale": (1.1, 0.9)}, "scale (1.1, 0.9): give 0.01 <= small"),
  ],
)
def test_fields_that_cannot_be(name, fields, text):
  with pytest.raises(ValueError, match=re.escape(text)):
    getattr(transforms_lib, name)(**fields)


def test_images_that_cannot_be_transformed():
  crop = CentralCrop((8, 9))
  with pytest.raises(ValueError, match=r"8x9 does not fit .* 7x9: resize"):
    crop(noise(7, 9), None)
  resize = Resize((24, 24))
  for transforms, new, text in (
    ((resize,), (48, 36), "48x36 pixels have another aspect ratio than 24x24"),
    ((resize, rand_augment.RandAugment(2, 10)), (48, 48), "rand_augment moves"),
  ):
    with pytest.raises(ValueError, match=text):
      transforms_lib.for_another_size(transforms, (24, 24), new)


def test_affine_moves_a_spot_as_drawn():
  transform = Affine(degrees=30, scale=(0.8, 1.2), shift=0.1)
  h, w = 64, 80
  image = blob(h, w, (h / 2 + 6, w / 2 + 10))
  for seed in range(100):
    angle, zoom, dy, dx = rng(seed).uniform(-1, 1, 4)
    turn = (1 + 0.2 * zoom) * np.exp(1j * np.radians(30 * angle))
    expected = (10 + 6j) * turn + 0.1 * (dx * w + 1j * dy * h)
    row, column = centre_of_mass(transform(image, rng(seed)))
    # Resampling at whole pixels and rounding to u8 move a centre of mass.
    assert abs(column - w / 2 + 1j * (row - h / 2) - expected) < 0.05
