"""Patch features as colours."""

import numpy as np
import pytest

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


def test_too_little_for_three_components_is_refused():
  text = "3 components of 3 patches with 8 features: give more than 3 patches"
  with pytest.raises(ValueError, match=text):
    principal_components([RNG.normal(size=(1, 3, 8))])
