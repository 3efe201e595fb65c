"""Transforms: identities, geometry, statistics, refusals."""

import math
import re

import numpy as np
import pytest

from flexivit_jax.data.pixels import rand_augment
from flexivit_jax.data.pixels import resize as resize_lib
from flexivit_jax.data.pixels import transforms as transforms_lib


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
    transforms_lib.Resize((5, 6)),
    transforms_lib.ResizeCrop(8, (5, 6)),
    transforms_lib.CentralCrop((5, 6)),
    transforms_lib.InceptionCrop((5, 6)),
    transforms_lib.Flip(),
    transforms_lib.Affine(),
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
  assert transforms_lib.Resize((3, 20))(noise(), None).shape == (3, 20, 3)
  np.testing.assert_array_equal(
    transforms_lib.Resize((9, 14))(noise(), None), noise()
  )


def test_resize_crop_takes_the_centre():
  wide = draw("01234567 12345678 23456789 01234567")
  cut = transforms_lib.ResizeCrop(4, (4, 4))(wide, None)
  np.testing.assert_array_equal(cut, draw("2345 3456 4567 2345"))
  cut = transforms_lib.ResizeCrop(4, (2, 4))(wide, None)
  np.testing.assert_array_equal(cut, draw("3456 4567"))
  cut = transforms_lib.ResizeCrop(4, (4, 2))(wide.swapaxes(0, 1), None)
  np.testing.assert_array_equal(cut, draw("34 45 56 67"))


def test_central_crop_is_a_slice():
  image = np.arange(7 * 9 * 3, dtype=np.uint8).reshape(7, 9, 3)
  for size, part in (((4, 9), image[1:5]), ((7, 3), image[:, 3:6])):
    cut = transforms_lib.CentralCrop(size)(image, None)
    np.testing.assert_array_equal(cut, part)


def test_pad_square_puts_the_image_in_the_middle():
  image = np.full((1, 3, 3), 7, np.uint8)
  padded = transforms_lib.PadSquare(2)(image, None)
  assert padded[..., 0].tolist() == [[2, 2, 2], [7, 7, 7], [2, 2, 2]]
  # What is left over where the middle is between two pixels is below.
  padded = transforms_lib.PadSquare()(image[:, :2].swapaxes(0, 1), None)
  assert padded[..., 1].tolist() == [[7, 0], [7, 0]]
  assert transforms_lib.PadSquare(9)(image[:, :1], None).tolist() == [
    [[7, 7, 7]]
  ]


def test_resize_crop_scales_the_shorter_side():
  # 8x16 at half the size is 4x8; its centre is what a crop of the whole takes.
  image = noise(8, 16)
  cut = transforms_lib.ResizeCrop(4, (4, 4))(image, None)
  expected = resize_lib.resize(image, (4, 4), (0, 4, 8, 12))
  np.testing.assert_array_equal(cut, expected)


def test_resize_crop_takes_images_of_every_side():
  # The crop is as large as the image allows, and rounding must not push it
  # over the edge.
  transform = transforms_lib.ResizeCrop(240, (240, 240))
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
  transform = transforms_lib.InceptionCrop(
    (8, 6), area=(0.1, 0.4), ratio=(0.5, 1.25)
  )
  boxes = crops(monkeypatch, transform, np.zeros((h, w, 3), np.uint8), n)
  top, left, bottom, right = boxes.T
  assert min(top.min(), left.min()) >= 0
  assert bottom.max() <= h
  assert right.max() <= w
  height, width = bottom - top, right - left
  area, log_ratio = height * width / (h * w), np.log(width / height)
  # Sides are rounded to whole pixels, of at least 69: 0.7 % each.
  edge = 0.015
  assert area.min() >= 0.1 * (1 - edge)
  assert area.max() <= 0.4 * (1 + edge)
  assert log_ratio.min() >= math.log(0.5) - edge
  assert log_ratio.max() <= math.log(1.25) + edge
  for values, low, high in (
    (area, 0.1, 0.4),
    (log_ratio, math.log(0.5), math.log(1.25)),
    # A place is uniform over what the crop leaves.
    (top / (h - height), 0, 1),
    (left / (w - width), 0, 1),
  ):
    # Four standard errors of the mean of a uniform variable.
    error = 4 * (high - low) / math.sqrt(12 * n)
    assert abs(values.mean() - (low + high) / 2) <= error
    # A uniform one of 500 comes within 3 % of both ends.
    assert values.min() <= low + 0.03 * (high - low)
    assert values.max() >= high - 0.03 * (high - low)


def test_an_inception_crop_of_a_strip_takes_all_of_it():
  strip = noise(2, 200)
  # Half of 400 pixels in a square are 14x14: taller than the strip.
  transform = transforms_lib.InceptionCrop((4, 8), area=(0.5, 1.0))
  expected = resize_lib.resize(strip, (4, 8))
  np.testing.assert_array_equal(transform(strip, rng()), expected)


def test_flip_mirrors_half_of_the_images():
  image = draw("0123 4567")
  mirrored = draw("3210 7654")
  flips = 0
  for seed in range(400):
    result = transforms_lib.Flip()(image, rng(seed))
    same = np.array_equal(result, image)
    assert same or np.array_equal(result, mirrored)
    flips += not same
  # Four standard deviations of a fair coin, sqrt(400) / 2 = 10 each.
  assert abs(flips - 200) <= 40


def test_affine_without_change_is_the_identity():
  transform = transforms_lib.Affine(degrees=0, scale=(1, 1), shift=0)
  for h, w in ((9, 14), (8, 8), (1, 3)):
    for seed in range(5):
      np.testing.assert_array_equal(
        transform(noise(h, w), rng(seed)), noise(h, w)
      )


# Resampling at whole pixels and rounding to u8 move a centre of mass by less
# than this many pixels; the effects below are of several.
PIXELS = 0.05


def displacements(transform, h, w, centre):
  """Where a spot goes, from the image's centre, over 200 draws."""
  image = blob(h, w, centre)
  return np.array(
    [
      centre_of_mass(transform(image, rng(seed))) - (h / 2, w / 2)
      for seed in range(200)
    ]
  )


def test_affine_shift_is_a_share_of_each_side():
  h, w = 48, 96
  transform = transforms_lib.Affine(degrees=0, scale=(1, 1), shift=0.2)
  moved = displacements(transform, h, w, (24, 48))
  for axis, largest in enumerate((0.2 * h, 0.2 * w)):
    # 200 uniform draws come within 5 % of the largest shift both ways.
    assert 0.95 * largest < moved[:, axis].max() <= largest + PIXELS
    assert -0.95 * largest > moved[:, axis].min() >= -largest - PIXELS
  # Every pixel by the same: another spot goes the same way.
  other = displacements(transform, h, w, (20, 52))
  np.testing.assert_allclose(other - moved, [[-4, 4]] * 200, atol=PIXELS)


def test_affine_turns_about_the_centre():
  transform = transforms_lib.Affine(degrees=30, scale=(1, 1), shift=0)
  for h, w in ((48, 48), (48, 64)):
    rows, cols = displacements(transform, h, w, (h / 2, w / 2 + 12)).T
    np.testing.assert_allclose(np.hypot(rows, cols), 12, atol=PIXELS)
    angles = np.degrees(np.arctan2(rows, cols))
    # PIXELS at 12 pixels from the centre are 0.24 degrees.
    assert 28 < angles.max() <= 30.3
    assert -28 > angles.min() >= -30.3


def test_affine_scale_magnifies_about_the_centre():
  transform = transforms_lib.Affine(degrees=0, scale=(0.5, 1.5), shift=0)
  moved = displacements(transform, 64, 64, (26, 40))
  zoom = moved / (-6, 8)
  np.testing.assert_allclose(zoom[:, 0], zoom[:, 1], atol=2 * PIXELS / 6)
  assert 0.49 < zoom.min() < 0.55
  assert 1.45 < zoom.max() < 1.51


def test_what_enters_is_black():
  white = np.full((16, 16, 3), 255, np.uint8)
  transform = transforms_lib.Affine(degrees=0, scale=(0.5, 0.5), shift=0)
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
    (transforms_lib.InceptionCrop((24, 24)), transforms_lib.Flip()),
    (transforms_lib.ResizeCrop(28, (24, 24)), transforms_lib.Affine()),
    (
      transforms_lib.Resize((28, 28)),
      transforms_lib.CentralCrop((24, 24)),
      transforms_lib.Flip(),
    ),
    (rand_augment.RandAugment(2, 10), transforms_lib.Resize((24, 24))),
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
  assert np.median(far) > 10 or isinstance(transforms[0], transforms_lib.Resize)


def test_another_size_of_images_that_no_transform_sizes():
  found = transforms_lib.for_another_size(
    (transforms_lib.Flip(),), (24, 24), (48, 48)
  )
  assert found == (transforms_lib.Flip(), transforms_lib.Resize((48, 48)))


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
  crop = transforms_lib.CentralCrop((8, 9))
  with pytest.raises(ValueError, match=r"8x9 does not fit .* 7x9: resize"):
    crop(noise(7, 9), None)
  resize = transforms_lib.Resize((24, 24))
  for transforms, new, text in (
    ((resize,), (48, 36), "48x36 pixels have another aspect ratio than 24x24"),
    ((resize, rand_augment.RandAugment(2, 10)), (48, 48), "rand_augment moves"),
  ):
    with pytest.raises(ValueError, match=text):
      transforms_lib.for_another_size(transforms, (24, 24), new)
