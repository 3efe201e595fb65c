"""Filters of made-up kernels whose components are known."""

import numpy as np
import pytest

from flexivit_jax.analysis import filters, resizing
from flexivit_jax.core import pi_resize

EACH = filters.Choice(filters.principal_components, True, "component")
STORED = filters.Choice(filters.principal_components, False, "component")
STRONGEST = filters.Choice(filters.strongest, False, "filter")


def kernel(h=6, w=4, c=3, d=10):
  return np.random.default_rng(0).normal(size=(h, w, c, d))


def test_components_of_a_kernel_that_is_made_of_two():
  rng = np.random.default_rng(0)
  patterns = np.linalg.qr(rng.normal(size=(24, 2)))[0]
  patterns *= np.sign(patterns.sum(axis=0))
  # Mixtures that sum to 0 over the 8 filters, which all share one more.
  mixtures = np.array([[1, -1] * 4, [1, 1, -1, -1] * 2]) / 8**0.5
  flat = patterns * (2, 1) @ mixtures + 0.3
  found = filters.filters(
    flat.reshape(4, 6, 1, 8), [(4, 6)], EACH, n=2, antialias=False
  )
  np.testing.assert_allclose(found.shares, [[0.8, 0.2]], rtol=1e-12)
  np.testing.assert_allclose(
    found.tiles[0].reshape(2, 24), (patterns * (2, 1)).T, rtol=0, atol=1e-12
  )
  assert found.norms == found.grey == 1


@pytest.mark.parametrize("choice", [EACH, STORED])
def test_all_components_hold_all_of_the_variance(choice):
  found = filters.filters(
    kernel(), [(6, 4), (3, 3), (9, 8)], choice, n=9, antialias=False
  )
  np.testing.assert_allclose(found.shares.sum(axis=1), 1, rtol=1e-12)
  own = found.shares if choice.each else found.shares[:1]
  assert np.all(np.diff(own, axis=1) <= 0)
  np.testing.assert_allclose(found.mixtures.sum(axis=1), 0, atol=1e-12)
  sums = np.array([x.sum(axis=(1, 2, 3)) for x in found.tiles])
  assert np.all(sums[:1] >= -1e-12)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("choice", [STORED, STRONGEST])
def test_a_column_is_one_filter_resized(choice, antialias):
  sizes = [(6, 4), (3, 2), (9, 8)]
  found = filters.filters(kernel(), sizes, choice, n=3, antialias=antialias)
  stored = np.moveaxis(found.tiles[0], 0, -1)
  for size, tiles in zip(sizes, found.tiles, strict=True):
    assert tiles.shape == (3, *size, 3)
    expected = pi_resize.pi_resize(stored, size, antialias=antialias)
    np.testing.assert_allclose(
      np.moveaxis(tiles, 0, -1), expected, rtol=0, atol=1e-12
    )


def test_components_of_each_size_are_its_own():
  sizes = [(6, 4), (3, 2)]
  found = filters.filters(kernel(), sizes, EACH, n=3, antialias=False)
  own = pi_resize.pi_resize(kernel(), (3, 2))
  alone = filters.filters(own, [(3, 2)], EACH, n=3, antialias=False)
  np.testing.assert_allclose(found.tiles[1], alone.tiles[0], atol=1e-12)
  stored = filters.filters(kernel(), sizes, STORED, n=3, antialias=False)
  # None of the same number holds more than the largest.
  assert np.all(found.shares[1].cumsum() > stored.shares[1].cumsum() + 0.01)


@pytest.mark.parametrize("antialias", [False, True])
def test_response_to_grey_is_the_gain_of_smooth_filters(antialias):
  window = np.hanning(34)[1:-1]
  x = np.einsum("h,w,cd->hwcd", window, window, kernel(1, 1)[0, 0])
  found = filters.filters(
    x, [(8, 8), (12, 12)], STRONGEST, n=1, antialias=antialias
  )
  expected = [resizing.gain(32, n, antialias=antialias) for n in (8, 12)]
  np.testing.assert_allclose(found.grey, expected, rtol=1e-12)
  # All filters are alike, so the kernel's norm falls as one filter's does.
  np.testing.assert_allclose(
    found.norms[0],
    np.linalg.norm(pi_resize.pi_resize(x, (8, 8), antialias=antialias))
    / np.linalg.norm(x),
    rtol=1e-12,
  )


@pytest.mark.parametrize(
  ("choice", "n", "text"),
  [
    (
      STORED,
      10,
      "10 is not 1 to 9, what a kernel of 6x4 pixels, 3 channels and 10 "
      "filters has",
    ),
    (
      EACH,
      4,
      "4 is not 1 to 3, what a kernel of 1x1 pixels, 3 channels and 10 filters "
      "has",
    ),
    (
      STRONGEST,
      0,
      "0 is not 1 to 10, what a kernel of 6x4 pixels, 3 channels and 10 "
      "filters has",
    ),
  ],
)
def test_more_than_there_are_is_refused(choice, n, text):
  with pytest.raises(ValueError) as caught:
    filters.filters(kernel(), [(6, 4), (1, 1)], choice, n=n, antialias=False)
  assert str(caught.value) == text


def test_filters_that_are_all_the_same_are_refused():
  with pytest.raises(ValueError) as caught:
    filters.filters(np.ones((4, 4, 3, 8)), [(4, 4)], EACH, n=1, antialias=False)
  assert str(caught.value) == (
    "all filters are the same: they have no components"
  )


@pytest.mark.parametrize("channels", [3, 1, 4])
def test_tiles_stand_in_rows_of_sizes(channels):
  sizes = [(6, 4), (3, 3)]
  found = filters.filters(
    kernel(c=channels), sizes, STRONGEST, n=4, antialias=False
  )
  figure = filters.draw(found, name="filter")
  assert len(figure.axes) == 8
  assert [x.get_ylabel() for x in figure.axes[::4]] == ["6x4 px", "3x3 px"]
  for axes, tile, share in zip(
    figure.axes,
    [tile for tiles in found.tiles for tile in tiles],
    found.shares.ravel(),
    strict=True,
  ):
    drawn = axes.images[0].get_array()
    assert axes.get_title() == f"{100 * share:.1f} %"
    scaled = tile / np.abs(tile).max()
    if channels == 3:
      np.testing.assert_array_equal(drawn, 0.5 + 0.5 * scaled)
    else:
      np.testing.assert_array_equal(drawn, scaled.mean(axis=-1))
      assert axes.images[0].get_clim() == (-1, 1)
