"""A sweep's table, letter by letter, and its curve."""

import numpy as np
import pytest
from PIL import Image

from flexivit_jax.evaluation import report
from flexivit_jax.evaluation.sweep import Point

POINTS = [
  Point((4, 4), 36, 0.978, 0.08123, 500, 12345.6),
  Point((12, 6), 8, 1.0, 12.3456, 500, 98.4),
  Point((24, 24), 1, 0.0549, 2.0, 500, 100000.0),
]


def test_the_table():
  assert report.table(POINTS).split("\n") == [
    "patch  tokens  top-1 %     loss  images/s",
    "  4x4      36     97.8   0.0812     12346",
    " 12x6       8    100.0  12.3456        98",
    "24x24       1      5.5   2.0000    100000",
  ]


def test_a_wide_cell_moves_its_column():
  points = [Point((8, 8), 123456789, 0.5, 0.5, 1, 1.0)]
  assert report.table(points).split("\n") == [
    "patch     tokens  top-1 %    loss  images/s",
    "  8x8  123456789     50.0  0.5000         1",
  ]


def rgb(colour):
  return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def read(path):
  with Image.open(path) as image:
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"))


def marks(pixels, colour):
  """Which pixels have a colour."""
  return (pixels == rgb(colour)).all(axis=-1)


@pytest.mark.parametrize("points", [POINTS, POINTS[:1]], ids=["three", "one"])
def test_the_curve_is_drawn(points, tmp_path):
  path = tmp_path / "curve.png"
  report.draw_curve(points, "A title", path)
  pixels = read(path)
  # 6 by 4 inches at 150 dots per inch.
  assert pixels.shape == (600, 900, 3)
  # Background, text and the curve, with the shades of their edges.
  assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10
  assert marks(pixels, "#ffffff").mean() > 0.5
  # A marker of 6 points is 12 pixels wide, about 120 in all.
  assert marks(pixels, report.COLOURS[0]).sum() >= 100 * len(points)


def test_the_curve_runs_from_few_tokens_to_many(tmp_path):
  # The order in which points are given does not matter.
  points = [POINTS[1], POINTS[2], POINTS[0]]
  images = []
  for i, order in enumerate((points, points[::-1])):
    path = tmp_path / f"{i}.png"
    report.draw_curve(order, "A title", path)
    images.append(read(path))
  np.testing.assert_array_equal(*images)


def test_better_points_are_higher(tmp_path):
  path = tmp_path / "curve.png"
  low, high = POINTS[2], POINTS[0]
  report.draw_curve([low, high], "A title", path)
  rows, cols = np.nonzero(marks(read(path), report.COLOURS[0]))
  # Few tokens and 5 % at the lower left, many and 98 % at the upper right:
  # image rows count from the top.
  assert rows[cols.argmin()] > 400
  assert rows[cols.argmax()] < 200
