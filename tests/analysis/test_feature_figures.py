"""Figures of features: what is drawn."""

import numpy as np
import pytest
from readable import texts_inside

from flexivit_jax.analysis import cka, pca

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("depth", [3, 40])
def test_similarities_are_maps_of_0_to_1(depth):
  names = ["in", *map(str, range(depth))]
  values = RNG.uniform(size=(depth + 1, depth + 1))
  values[0] = np.nan
  titles = ("mean of patches", "patches, on 2x2")
  figure = cka.draw_similarities(
    dict.fromkeys(titles, values), dict.fromkeys(titles, names), ("4", "12")
  )
  words = texts_inside(figure)
  assert {"layer at 4 px", "layer at 12 px", "linear CKA", *titles} <= words
  image = figure.axes[0].images[0]
  assert image.get_clim() == (0, 1)
  np.testing.assert_array_equal(image.get_array().filled(np.nan), values)
  # The first layer is at the bottom, where there is room all have a name.
  assert image.origin == "lower"
  shown = [x.get_text() for x in figure.axes[0].get_yticklabels()]
  assert shown == names[:: 1 if depth == 3 else 4]


def test_pairs_of_sizes_are_told_apart():
  pairs = {f"{i} and 99": RNG.uniform(size=3) for i in range(10)}
  titles = ("mean of patches", "patches, on 2x2")
  figure = cka.draw_same_layers(
    dict.fromkeys(titles, pairs),
    dict.fromkeys(titles, np.full(3, 0.1)),
    dict.fromkeys(titles, "abc"),
  )
  words = texts_inside(figure)
  assert {*pairs, "of different images (chance)"} <= words
  *lines, chance = figure.axes[0].get_lines()
  np.testing.assert_allclose(chance.get_ydata(), 0.1)
  assert len(lines) == 10
  looks = {(x.get_color(), x.get_linestyle(), x.get_marker()) for x in lines}
  assert len(looks) == 10


def test_colours_stand_beside_their_images():
  images = [np.zeros((8, 12, 3), np.uint8), np.ones((8, 8, 3), np.uint8)]
  shown = {
    "4": [RNG.uniform(size=(2, 3, 3)), RNG.uniform(size=(2, 2, 3))],
    "8": [RNG.uniform(size=(1, 2, 3)), np.full((1, 1, 3), np.nan)],
  }
  figure = pca.draw_colours(images, shown, "Title")
  assert {"Title", "image", "4 px", "8 px"} <= texts_inside(figure)
  drawn = [axes.images[0] for axes in figure.axes]
  np.testing.assert_array_equal(drawn[0].get_array(), images[0])
  np.testing.assert_allclose(drawn[1].get_array(), shown["4"][0])
  np.testing.assert_allclose(drawn[2].get_array(), shown["8"][0])
  np.testing.assert_array_equal(drawn[3].get_array(), images[1])
  # A missing patch is white.
  assert drawn[5].get_array().tolist() == [[[1, 1, 1]]]
  assert drawn[2].get_extent() == [-0.5, 11.5, 7.5, -0.5]
