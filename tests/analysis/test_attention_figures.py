"""Figures of attention: what is drawn, and that its words fit."""

import numpy as np
import pytest
from readable import texts_inside

from flexivit_jax.analysis import attention_distance, attention_maps

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("sizes", [("4",), ("4", "8", "16x12")])
def test_distances_are_dots_their_mean_and_a_line(sizes):
  values = {name: RNG.uniform(1, 9, (3, 2)) for name in sizes}
  figure = attention_distance.draw_distances(values, dict.fromkeys(sizes, 12.0))
  words = texts_inside(figure)
  assert {"mean attention distance (px)", "block", "one head"} <= words
  assert {f"patches of {name} px" for name in sizes} <= words
  for axes, heads in zip(figure.axes, values.values(), strict=True):
    dots, mean, uniform = axes.get_lines()
    assert dots.get_xdata().tolist() == [0, 0, 1, 1, 2, 2]
    np.testing.assert_array_equal(dots.get_ydata(), heads.ravel())
    np.testing.assert_allclose(mean.get_ydata(), heads.mean(axis=1))
    assert uniform.get_ydata() == [12, 12]
    # All of it, from 0 on.
    low, high = axes.get_ylim()
    assert low == 0
    assert high > 12


def test_heat_has_one_scale_in_multiples_of_the_mean():
  images = [np.full((8, 12, 3), 50, np.uint8), np.zeros((8, 8, 3), np.uint8)]
  heat = [np.array([[0.1, 0.2, 0.3]]), np.array([[1.0, np.nan]])]
  figure = attention_distance.draw_heat(images, heat, "Title")
  assert "Title" in texts_inside(figure)
  drawn = [axes.images[0] for axes in figure.axes[2:4]]
  np.testing.assert_allclose(drawn[0].get_array(), [[0.5, 1, 1.5]])
  assert drawn[1].get_array().filled(-1).tolist() == [[1, -1]]
  for x in drawn:
    np.testing.assert_allclose((x.norm.vmin, x.norm.vmax), (0.5, 1.5))
  # As large as the image, whatever the patches.
  assert drawn[0].get_extent() == [-0.5, 11.5, 7.5, -0.5]


@pytest.mark.parametrize("heads", [2, 12])
def test_maps_have_a_column_for_each_head_and_the_query_outlined(heads):
  images = [np.zeros((8, 12, 3), np.uint8)] * 2
  maps = [RNG.uniform(size=(2, 3, heads)) for _ in images]
  figure = attention_maps.draw_maps(images, maps, "Title", (1, 2))
  words = texts_inside(figure)
  assert {"Title", "image", *(f"head {i}" for i in range(heads))} <= words
  axes = figure.axes[: 2 * (heads + 1)]
  first = axes[1].images[-1].get_array()
  np.testing.assert_allclose(first, maps[0][..., 0] / maps[0][..., 0].max())
  for each in axes:
    (box,) = each.patches
    assert (*box.get_xy(), box.get_width(), box.get_height()) == (
      *(7.5, 3.5),
      *(4, 4),
    )
  figure = attention_maps.draw_maps(images, maps, "Title")
  assert not figure.axes[0].patches
