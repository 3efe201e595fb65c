"""Filters of made-up kernels whose components are known."""

import re

import numpy as np
import pytest

from flexivit_jax.analysis import filters
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


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: _filters(kernel(), STORED, 10), "10 is not 1 to 9, what a kernel"),
    (lambda: _filters(kernel(), EACH, 4), "4 is not 1 to 3"),
    (lambda: _filters(kernel(), STRONGEST, 0), "0 is not 1 to 10"),
    (lambda: _filters(np.ones((6, 4, 3, 8)), EACH, 1), "filters are the same"),
  ],
)
def test_refusals(make, text):
  with pytest.raises(ValueError, match=re.escape(text)):
    make()


def _filters(kernel, choice, n):
  return filters.filters(kernel, [(6, 4), (1, 1)], choice, n=n, antialias=False)
