"""Digits on canvases: their shapes, and that each is always the same."""

import numpy as np
import pytest

from flexivit_jax.data.sources.digits import Digits, DigitsCanvas


def pixels(source):
  return [(source.image(i).shape, source.image(i).tobytes()) for i in range(30)]


def test_an_image_is_the_same_in_every_run_and_slice():
  whole = DigitsCanvas("test").open()
  assert pixels(whole) == pixels(DigitsCanvas("test").open())
  parts = [DigitsCanvas(f"test[{s}]").open() for s in (":200", "200:")]
  there = sorted(x.tobytes() for x in whole.pixels)
  assert sorted(x.tobytes() for p in parts for x in p.pixels) == there
  assert len({s.fingerprint for s in (whole, *parts)}) == 3


def test_labels_and_digits_are_those_of_the_digits():
  canvases = DigitsCanvas("test", sides=(24, 24), aspect=0.0).open()
  digits = Digits("test").open()
  assert canvases.classes == digits.classes
  np.testing.assert_array_equal(canvases.labels, digits.labels)
  # Ink is moved and resized: of the same digit there is the most alike share.
  for i in range(10):
    share = (canvases.image(i).mean() / digits.image(i).mean()) ** 0.5
    assert 0.7 < share < 1.05  # 3/4 to all of the side, and rounding


def test_sizes_and_aspect_ratios_are_as_asked_for():
  source = DigitsCanvas("train", sides=(20, 60), aspect=0.4).open()
  h, w = np.array([source.size(i) for i in range(len(source))]).T
  assert all(source.image(i).shape == (*source.size(i), 3) for i in range(50))
  side, log_aspect = np.sqrt(h * w), np.log(w / h)
  # Rounded to whole pixels, each side by up to half of one.
  assert 19 < side.min() < 21
  assert 59 < side.max() < 61
  # 1,297 draws of U(20, 60): the mean has a standard error of 0.32.
  assert abs(side.mean() - 40) < 1.3
  assert abs(log_aspect.mean()) < 0.045
  # A normal of 0.4 cut off at two deviations has 0.88 to 0.96 of it.
  assert 0.36 < log_aspect.std() < 0.41
  assert np.abs(log_aspect).max() < 0.8 + 0.08


def test_a_digit_keeps_its_shape_and_is_black_around():
  source = DigitsCanvas("test", sides=(64, 64), aspect=1.0).open()
  tops = []
  for i in range(60):
    image = source.image(i)
    assert image.dtype == np.uint8
    rows, columns, _ = np.nonzero(image)
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    # All 8 rows of a digit have ink: it fills its square, which fits.
    short = min(image.shape[:2])
    assert 0.7 * short < extent <= short
    tops.append(rows.min() / image.shape[0])
  assert max(tops) > 0.5
  assert min(tops) < 0.05


@pytest.mark.slow
def test_no_field_changes_what_another_one_draws():
  aspects = [
    np.array([DigitsCanvas("test", sides=s).open().size(i) for i in range(40)])
    for s in ((100, 100), (200, 200))
  ]
  ratio = [a[:, 0] / a[:, 1] for a in aspects]
  np.testing.assert_allclose(*ratio, rtol=0.02)  # a pixel of 70


@pytest.mark.parametrize(
  ("fields", "text"),
  [
    ({"sides": (32, 12)}, r"sides \(32, 12\): give \(least, largest\), 4 to "),
    ({"sides": (2, 12)}, r"sides \(2, 12\)"),
    ({"aspect": 1.5}, r"aspect 1.5: give 0 to 1"),
    ({"split": "val"}, "no split 'val'"),
  ],
)
def test_refusals(fields, text):
  with pytest.raises(ValueError, match=text):
    DigitsCanvas(**fields).open()
