"""Losses of a resize: by hand, against the papers' numbers, against draws."""

import itertools

import numpy as np
import pytest

from flexivit_jax.analysis import resize_losses
from flexivit_jax.core import pi_resize, resize

SIZES = (5, 6, 8, 10, 12, 15, 16, 20, 24, 30, 32, 40, 48)


PAIRS = list(itertools.product(SIZES, SIZES))


BOTH = pytest.mark.parametrize("antialias", [False, True])


def test_matrices_of_two_to_four_pixels_by_hand():
  found = resize_losses.matrices(2, 4, antialias=False)
  # Half-pixel centres: at -1/4, 1/4, 3/4 and 5/4, clamped to 0 and 1.
  b = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
  # B (B^T B)^-1, B^T B = [[1.625, 0.375], [0.375, 1.625]].
  p = [[0.65, -0.15], [0.45, 0.05], [0.05, 0.45], [-0.15, 0.65]]
  np.testing.assert_allclose(found.b, b, rtol=0, atol=1e-15)
  np.testing.assert_allclose(found.p, p, rtol=0, atol=1e-15)
  # The eigenvectors of B^T B are (1, 1) and (1, -1).
  np.testing.assert_allclose(
    found.singular_values, [2**0.5, 1.25**0.5], rtol=1e-15
  )


@BOTH
def test_spectrum_of_a_patch_is_that_of_its_matrix(antialias):
  m = resize_losses.matrices(6, 4, antialias=antialias, dimensions=2)
  expected = np.linalg.svd(m.b, compute_uv=False)
  np.testing.assert_allclose(m.singular_values, expected, rtol=0, atol=1e-14)


# Of the papers' smooth patch, whose window is not said: ours differs by 0.02.
@pytest.mark.parametrize(
  ("old", "new", "expected"),
  [
    (32, 24, 1.00),
    (32, 16, 0.99),
    (32, 12, 0.37),
    (32, 8, 0.23),
    (48, 8, 0.10),
  ],
)
def test_gain_of_a_smooth_patch(old, new, expected):
  assert resize_losses.gain(old, new, antialias=False) == pytest.approx(
    expected, abs=0.03
  )
  assert 0.95 < resize_losses.gain(old, new, antialias=True) < 1.01


@BOTH
def test_of_noise_the_error_is_the_share_that_is_dropped(antialias):
  # A = B^T P projects p^2 pixels to q^2 dimensions: 1 - A keeps the others.
  for old, new in PAIRS:
    if old > new:
      error = resize_losses.response_error(
        old, new, antialias=antialias, correlation=0
      )
      # Float64, and conditions of at most 6.
      assert error == pytest.approx((1 - (new / old) ** 2) ** 0.5, rel=1e-11)


@BOTH
@pytest.mark.parametrize("correlation", [0, 0.95])
def test_the_exact_error_is_that_of_many_draws(antialias, correlation):
  old, new, draws, kernels = 9, 5, 4000, 200
  rng = np.random.default_rng(0)
  places = np.arange(old)
  root = np.linalg.cholesky(
    float(correlation) ** np.abs(places[:, None] - places)
  )
  x = np.einsum(
    "hi,wj,ijn->hwn", root, root, rng.normal(size=(old, old, draws))
  )
  w = rng.normal(size=(old, old, 1, kernels))
  small = resize.resize_grid(x, (new, new), antialias=antialias)
  before = np.einsum("hwn,hwd->nd", x, w[:, :, 0])
  resized = pi_resize.pi_resize(w, (new, new), antialias=antialias)
  after = np.einsum("hwn,hwd->nd", small, resized[:, :, 0])
  drawn = np.sqrt(np.mean((after - before) ** 2) / np.mean(before**2))
  exact = resize_losses.response_error(
    old, new, antialias=antialias, correlation=correlation
  )
  # The slowest mean is over 200 kernels: about 1 / sqrt(2 * 200) = 5 % of the
  # squares where few directions of the 81 carry all, 2.5 % of their root.
  assert exact == pytest.approx(drawn, rel=0.075)
  other = resize_losses.response_error(
    old, new, antialias=antialias, correlation=0.95 - correlation
  )
  assert abs(other - drawn) > 0.3 * drawn
