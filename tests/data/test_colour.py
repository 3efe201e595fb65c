"""Colour jitter and grayscale: identities, ranges, order, refusals."""

import collections
import colorsys
import math

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from flexivit_jax.data.pixels import colour
from flexivit_jax.data.pixels.colour import ColorJitter, Grayscale

NAMES = ("brightness", "contrast", "saturation", "hue")
NONE = dict.fromkeys(NAMES, 0.0)


def rng(seed=0):
  return np.random.default_rng(seed)


def noise(h=9, w=14, low=0, high=256):
  return rng(7).integers(low, high, (h, w, 3), dtype=np.uint8)


def only(**fields):
  return ColorJitter(**NONE | fields)


def test_no_change_is_the_identity():
  for seed in range(5):
    np.testing.assert_array_equal(only()(noise(), rng(seed)), noise())
    np.testing.assert_array_equal(Grayscale(0)(noise(), rng(seed)), noise())


def test_factors_are_pillows():
  enhance = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
  }
  for i, (name, by) in enumerate(enhance.items()):
    for largest in (0.3, 3.0):
      for seed in range(5):
        draw = rng(seed).uniform(-1, 1, 4)[i]
        low, high = max(0, 1 - largest), 1 + largest  # below 0 it inverts
        factor = low + (draw + 1) / 2 * (high - low)
        expected = by(Image.fromarray(noise())).enhance(factor)
        found = only(**{name: largest})(noise(), rng(seed)).astype(int)
        # The factor's own rounding, where it meets a whole level.
        assert np.abs(found - expected).max() <= 1


def test_hue_turns_the_colour_circle():
  image = noise(6, 6)
  for seed in range(20):
    found = only(hue=0.4)(image, rng(seed))
    turn = 0.4 * rng(seed).uniform(-1, 1, 4)[3]
    expected = np.array(
      [
        colorsys.hsv_to_rgb((h + turn) % 1, s, v)
        for h, s, v in (
          colorsys.rgb_to_hsv(*p) for p in image.reshape(-1, 3) / 255
        )
      ]
    )
    off = found.reshape(-1, 3) - 255 * expected
    # 256 hues are 6 sixths of 43 levels, each of up to 256 values of a channel.
    assert np.abs(off).max() < 10
    assert np.abs(off).mean() < 2
  grey = np.repeat(noise()[..., :1], 3, -1)
  np.testing.assert_array_equal(only(hue=0.5)(grey, rng(3)), grey)


def test_any_order_is_as_likely(monkeypatch):
  orders = collections.Counter()

  def spy(name):
    def change(image, largest, draw):
      seen.append(name)
      return image

    return name, change

  monkeypatch.setattr(colour, "_CHANGES", tuple(map(spy, NAMES)))
  for seed in range(1200):
    seen = []
    ColorJitter()(noise(1, 1), rng(seed))
    orders[tuple(seen)] += 1
  assert len(orders) == 24
  # 50 each, a deviation of 6.9; four of them.
  assert max(abs(n - 50) for n in orders.values()) < 28


def test_a_field_changes_no_others_draw():
  image = np.full((2, 2, 3), 100, np.uint8)
  for seed in range(5):
    # Of grey, neither saturation nor hue is to be seen.
    a = only(brightness=0.4)(image, rng(seed))
    b = ColorJitter(0.4, 0.0, 0.4, 0.4)(image, rng(seed))
    np.testing.assert_array_equal(a, b)


def test_grayscale_takes_the_colour_out_of_some():
  image = noise()
  # ITU-R 601, rounded once.
  luma = np.round(image @ np.array([0.299, 0.587, 0.114]))
  grey = 0
  for seed in range(1000):
    found = Grayscale(0.2)(image, rng(seed))
    if not np.array_equal(found, image):
      grey += 1
      assert np.abs(found - luma[..., None]).max() <= 1
      assert np.ptp(found, axis=-1).max() == 0
  # A deviation of 12.6; four of them.
  assert abs(grey - 200) < 51


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: only(brightness=-1.0), r"brightness is -1\.0: give 0 to 10"),
    (lambda: only(contrast=math.nan), "contrast is nan: give 0 to 10"),
    (lambda: only(saturation=11.0), r"saturation is 11\.0: give 0 to 10"),
    (lambda: only(hue=0.6), r"hue is 0\.6: give a share from 0 to 0\.5"),
    (lambda: Grayscale(1.1), r"probability is 1\.1: give 0 to 1"),
  ],
)
def test_what_cannot_be(make, message):
  with pytest.raises(ValueError, match=message):
    make()
