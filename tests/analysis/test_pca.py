"""Patch features as colours."""

import numpy as np
import pytest
from readable import texts_inside

from flexivit_jax.analysis import pca
from flexivit_jax.analysis.pca import colours, principal_components

RNG = np.random.default_rng(0)


def features(*grids, d=6):
  """Of falling variance by channel, in a turned basis."""
  turn, _ = np.linalg.qr(RNG.normal(size=(d, d)))
  scales = 2.0 ** -np.arange(d)
  return turn, [RNG.normal(size=(*g, d)) * scales @ turn for g in grids]


def test_directions_are_those_of_largest_variance():
  turn, images = features((60, 60))
  found = principal_components(images)
  # Of 3600 patches; each direction has a quarter of the variance before it.
  overlap = np.abs(found.directions @ turn.T)
  np.testing.assert_allclose(overlap, np.eye(6)[:3], rtol=0, atol=0.1)
  np.testing.assert_allclose(found.shares, [3 / 4, 3 / 16, 3 / 64], rtol=0.1)
  gram = found.directions @ found.directions.T
  np.testing.assert_allclose(gram, np.eye(3), rtol=0, atol=1e-12)


def test_it_is_the_singular_value_decomposition_of_one_image():
  _, (image,) = features((5, 4))
  flat = image.reshape(20, 6)
  centred = flat - flat.mean(axis=0, keepdims=True)
  _, values, directions = np.linalg.svd(centred, full_matrices=False)
  found = principal_components([image])
  np.testing.assert_allclose(
    np.abs(np.sum(found.directions * directions[:3], axis=1)), 1, rtol=1e-10
  )
  np.testing.assert_allclose(
    found.shares, (values**2 / np.sum(values**2))[:3], rtol=1e-10
  )
  projected = found.project(image)
  np.testing.assert_allclose(projected.mean(axis=(0, 1)), 0, atol=1e-12)


def test_an_image_counts_alike_however_finely_it_is_cut():
  _, (first, second) = features((4, 4), (3, 3))
  finer = np.repeat(np.repeat(first, 3, axis=0), 3, axis=1)
  a = principal_components([first, second])
  b = principal_components([finer, second])
  for x, y in zip(a, b, strict=True):
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-10)
  # Where patches count, it does not.
  joined = [np.concatenate([x.reshape(1, -1, 6) for x in (finer, second)], 1)]
  assert np.abs(principal_components(joined).mean - a.mean).max() > 1e-2


def test_colours_span_0_to_1_over_all_images():
  _, images = features((9, 9), (5, 4), (1, 2))
  got = colours(images)
  assert [x.shape for x in got] == [(9, 9, 3), (5, 4, 3), (1, 2, 3)]
  flat = np.concatenate([x.reshape(-1, 3) for x in got])
  assert flat.min(axis=0).tolist() == [0, 0, 0]
  assert flat.max(axis=0).tolist() == [1, 1, 1]
  # Patches with the same features have the same colour, in any image.
  images[1][0, 0] = images[0][2, 3]
  got = colours(images)
  np.testing.assert_allclose(got[1][0, 0], got[0][2, 3], rtol=0, atol=1e-12)


def test_a_missing_patch_has_no_colour_and_changes_none():
  _, images = features((4, 4), (3, 3))
  whole = colours([images[0][:3], images[1]])
  images[0][3] = np.nan
  got = colours(images)
  assert np.isnan(got[0][3]).all()
  np.testing.assert_allclose(got[0][:3], whole[0], rtol=0, atol=1e-12)


def test_a_feature_that_never_changes_is_one_colour():
  image = np.zeros((4, 4, 3))
  image[..., 0] = RNG.normal(size=(4, 4))
  (got,) = colours([image])
  assert np.isfinite(got).all()
  assert got[..., 0].max() == 1
  assert (got[..., 1:] == 0).all()


@pytest.mark.parametrize(
  ("shape", "text"),
  [
    (
      (1, 3, 8),
      "3 components of 3 patches with 8 features: give more than 3 patches, "
      "and a model at least 3 wide",
    ),
    (
      (5, 5, 2),
      "3 components of 25 patches with 2 features: give more than 3 patches, "
      "and a model at least 3 wide",
    ),
  ],
)
def test_too_little_for_three_components_is_refused(shape, text):
  with pytest.raises(ValueError) as error:
    principal_components([RNG.normal(size=shape)])
  assert str(error.value) == text


def test_colours_stand_beside_their_images():
  images = [np.zeros((8, 12, 3), np.uint8), np.ones((8, 8, 3), np.uint8)]
  shown = {
    "4": [RNG.uniform(size=(2, 3, 3)), RNG.uniform(size=(2, 2, 3))],
    "8": [RNG.uniform(size=(1, 2, 3)), np.full((1, 1, 3), np.nan)],
  }
  figure = pca.draw(images, shown, "Title")
  assert {"Title", "image", "4 px", "8 px"} <= texts_inside(figure)
  drawn = [axes.images[0] for axes in figure.axes]
  np.testing.assert_array_equal(drawn[0].get_array(), images[0])
  np.testing.assert_allclose(drawn[1].get_array(), shown["4"][0])
  np.testing.assert_allclose(drawn[2].get_array(), shown["8"][0])
  np.testing.assert_array_equal(drawn[3].get_array(), images[1])
  # A missing patch is white.
  assert drawn[5].get_array().tolist() == [[[1, 1, 1]]]
  assert drawn[2].get_extent() == [-0.5, 11.5, 7.5, -0.5]
