"""RandAugment: each operation against another definition; strengths; draws."""

import collections
import functools
import math

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from flexivit_jax.data.pixels import rand_augment
from flexivit_jax.data.pixels.rand_augment import OPERATIONS, RandAugment


def rng(seed=0):
  return np.random.default_rng(seed)


def noise(h=31, w=44, low=20, high=230):
  pixels = rng(7).integers(low, high, (h, w, 3), dtype=np.uint8)
  return Image.fromarray(pixels)


def smooth(h=31, w=44):
  rows, columns = np.mgrid[:h, :w]
  planes = [3 * rows, 4 * columns, 250 - rows - columns]
  return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def equal(a, b, tolerance=0):
  off = np.abs(np.asarray(a).astype(int) - np.asarray(b))
  return off.max() <= tolerance


BOTH = pytest.mark.parametrize(
  "image", [noise(), smooth()], ids=["noise", "smooth"]
)


@BOTH
def test_auto_contrast_is_pillows(image):
  # Pillow's levels are of float64, these of float32 and so 254 at times, as
  # TensorFlow's.
  found = rand_augment.auto_contrast(image)
  assert equal(found, ImageOps.autocontrast(image), 1)
  assert {low for low, _ in found.getextrema()} == {0}
  assert {high for _, high in found.getextrema()} <= {254, 255}


@BOTH
def test_equalize_is_pillows(image):
  assert equal(rand_augment.equalize(image), ImageOps.equalize(image))
  large = image.resize((200, 160), Image.Resampling.BICUBIC)
  found = rand_augment.equalize(large)
  assert equal(found, ImageOps.equalize(large))
  assert not equal(found, large, 5)


@BOTH
def test_posterize_and_solarize_are_pillows(image):
  for bits in range(1, 9):
    expected = ImageOps.posterize(image, bits)
    assert equal(rand_augment.posterize(image, bits), expected)
  for threshold in (1, 77, 128, 255):
    expected = ImageOps.solarize(image, threshold)
    assert equal(rand_augment.solarize(image, threshold), expected)


def test_what_is_out_of_an_operations_range():
  image = noise()
  assert equal(rand_augment.posterize(image, 0), ImageOps.posterize(image, 1))
  assert equal(rand_augment.posterize(image, 12), image)
  for threshold in (0, 256, 512):
    found = rand_augment.solarize(image, threshold)
    assert equal(found, ImageOps.invert(image))
  expected = ImageOps.solarize(image, 128)
  assert equal(rand_augment.solarize(image, 384), expected)


@BOTH
def test_solarize_add_brightens_the_dark(image):
  x = np.asarray(image).astype(int)
  expected = np.where(x < 128, np.minimum(x + 200, 255), x)
  assert equal(rand_augment.solarize_add(image, 200), expected)


@BOTH
@pytest.mark.parametrize("factor", [0.1, 0.82, 1.9, 3.7])
def test_brightness_is_pillows_and_contrast_about_a_grey(image, factor):
  expected = ImageEnhance.Brightness(image).enhance(factor)
  assert equal(rand_augment.brightness(image, factor), expected)
  for size, grey in (((44, 31), 5), ((255, 255), 254), ((300, 300), 255)):
    sized = image.resize(size)
    about = Image.new("RGB", size, (grey,) * 3)
    expected = Image.blend(about, sized, factor)
    assert equal(rand_augment.contrast(sized, factor), expected)


def nearest(image, place):
  """place(x, y) of each pixel, rounded; grey where there is none."""
  pixels = np.asarray(image)
  h, w = pixels.shape[:2]
  made = np.full_like(pixels, 128)
  clear = np.zeros((h, w), bool)
  for y in range(h):
    for x in range(w):
      at_x, at_y = place(x, y)
      # Halfway, the rounding of a sum decides.
      ties = [abs(at % 1 - 0.5) < 1e-3 for at in (at_x, at_y)]
      clear[y, x] = not any(ties)
      column, row = math.floor(at_x + 0.5), math.floor(at_y + 0.5)
      if 0 <= row < h and 0 <= column < w:
        made[y, x] = pixels[row, column]
  return made, clear


def turned(degrees, h, w):
  """About the centre of the pixels, whose first is at (0, 0)."""
  turn = complex(
    math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
  )
  centre = complex((w - 1) / 2, (h - 1) / 2)

  def place(x, y):
    at = (complex(x, y) - centre) * turn + centre
    return at.real, at.imag

  return place


@pytest.mark.parametrize(
  ("operation", "amounts", "place"),
  [
    ("rotate", (-30, 7, 45, 100), lambda a, x, y: turned(a, 31, 44)(x, y)),
    ("shear_x", (-0.3, 0.12, 0.6), lambda a, x, y: (x + a * y, y)),
    ("shear_y", (-0.3, 0.12, 0.6), lambda a, x, y: (x, y + a * x)),
    ("translate_x", (-10, 7, 3.7), lambda a, x, y: (x + a, y)),
    ("translate_y", (-10, 7, 3.7), lambda a, x, y: (x, y + a)),
  ],
)
def test_geometry_takes_the_nearest_pixel(operation, amounts, place):
  image = noise()
  for a in amounts:
    expected, clear = nearest(image, functools.partial(place, a))
    found = np.asarray(getattr(rand_augment, operation)(image, a))
    assert clear.mean() > 0.8
    np.testing.assert_array_equal(found[clear], expected[clear])
    assert (found == 128).all(-1).any()  # something entered


@pytest.mark.parametrize("centre", [(0, 0), (15, 20), (30, 43), (3, 40)])
def test_cutout_is_a_grey_square(centre):
  image = noise()
  expected = np.array(image)
  row, column = centre
  rows = slice(max(0, row - 6), row + 6)
  columns = slice(max(0, column - 6), column + 6)
  expected[rows, columns] = 128
  assert equal(rand_augment.cutout(image, 6, centre), expected)
  assert equal(image, noise())  # not in place


def amounts(name, magnitude, monkeypatch):
  """What an operation is called with, over many draws."""
  seen = set()

  def called(image, *given):
    seen.update(given)
    return image

  monkeypatch.setattr(rand_augment, name, called)
  for seed in range(20):
    OPERATIONS[name](noise(), magnitude, rng(seed))
  return {x if isinstance(x, tuple) else round(x, 6) for x in seen}


@pytest.mark.parametrize(
  ("name", "at_2", "at_10", "at_15"),
  [
    ("rotate", {-6, 6}, {-30, 30}, {-45, 45}),
    ("posterize", {0}, {4}, {6}),
    ("solarize", {51}, {256}, {384}),
    ("solarize_add", {22}, {110}, {165}),
    ("contrast", {0.46}, {1.9}, {2.8}),
    ("brightness", {0.46}, {1.9}, {2.8}),
    ("shear_x", {-0.06, 0.06}, {-0.3, 0.3}, {-0.45, 0.45}),
    ("shear_y", {-0.06, 0.06}, {-0.3, 0.3}, {-0.45, 0.45}),
    ("translate_x", {-20, 20}, {-100, 100}, {-150, 150}),
    ("translate_y", {-20, 20}, {-100, 100}, {-150, 150}),
  ],
)
def test_strengths_are_those_of_big_vision(
  name, at_2, at_10, at_15, monkeypatch
):
  for magnitude, expected in ((2, at_2), (10, at_10), (15, at_15)):
    assert amounts(name, magnitude, monkeypatch) == expected


def test_strengths_of_what_pillow_does():
  image = smooth()
  for name, by in (
    ("color", ImageEnhance.Color),
    ("sharpness", ImageEnhance.Sharpness),
  ):
    for magnitude, factor in ((2, 0.46), (10, 1.9), (15, 2.8)):
      found = OPERATIONS[name](image, magnitude, rng())
      assert equal(found, by(image).enhance(factor), 1)  # 0.1 + 0.36 != 0.46


def test_cutout_is_centred_anywhere(monkeypatch):
  found = collections.Counter()

  def called(image, pad, centre):
    assert pad == 40
    found[centre] += 1
    return image

  monkeypatch.setattr(rand_augment, "cutout", called)
  for seed in range(600):
    OPERATIONS["cutout"](noise(3, 4), 10, rng(seed))
  # 12 centres, 50 each, a deviation of 6.8; four of them.
  assert set(found) == set(np.ndindex(3, 4))
  assert max(abs(count - 50) for count in found.values()) < 28


@pytest.mark.parametrize(
  ("name", "magnitude"),
  [
    *((name, 0) for name in ("rotate", "shear_x", "shear_y", "translate_x")),
    *((name, 0) for name in ("translate_y", "cutout", "solarize_add")),
    *((name, 5) for name in ("color", "contrast", "brightness", "sharpness")),
    ("posterize", 20),
  ],
)
def test_no_strength_is_the_identity(name, magnitude):
  for seed in range(3):
    assert equal(OPERATIONS[name](noise(), magnitude, rng(seed)), noise())


def test_what_is_so_already_stays():
  flat = Image.new("RGB", (5, 4), (9, 99, 255))
  for name in ("equalize", "auto_contrast"):
    assert equal(OPERATIONS[name](flat, 10, rng()), flat)


def test_layers_are_operations_in_turn():
  image = noise()
  for seed in range(40):
    found = RandAugment(3, 7)(np.asarray(image), rng(seed))
    draws, expected = rng(seed), image
    for number in draws.integers(16, size=3).tolist():
      name = list(OPERATIONS)[number]
      expected = OPERATIONS[name](expected, 7, draws)
    np.testing.assert_array_equal(found, expected)


def test_invert_is_pillows():
  found = OPERATIONS["invert"](noise(), 10, rng())
  assert equal(found, ImageOps.invert(noise()))


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"layers": 0}, "layers is 0: give 1 to 16"),
    ({"magnitude": 31.0}, r"magnitude is 31\.0: give 0 to 30"),
    ({"magnitude": math.nan}, "magnitude is nan: give 0 to 30"),
  ],
)
def test_refusals(fields, message):
  with pytest.raises(ValueError, match=message):
    RandAugment(**fields)
