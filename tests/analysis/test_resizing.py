"""Losses of a resize: by hand, against the papers' numbers, against draws."""

import itertools

import numpy as np
import pytest

from flexivit_jax.analysis import resizing
from flexivit_jax.core import pi_resize, resize

SIZES = (5, 6, 8, 10, 12, 15, 16, 20, 24, 30, 32, 40, 48)


PAIRS = list(itertools.product(SIZES, SIZES))


BOTH = pytest.mark.parametrize("antialias", [False, True])


def test_matrices_of_two_to_four_pixels_by_hand():
  found = resizing.matrices(2, 4, antialias=False)
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


@pytest.mark.parametrize(
  ("side", "response"), [(3, 0.7), (4, 0.7), (2, 0.7), (1, 0.65)]
)
def test_two_by_two_example(side, response):
  x, w = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.5, 0.6, 0.7, 0.8])
  m = resizing.matrices(2, side, antialias=False, dimensions=2)
  assert m.b.shape == m.p.shape == (side**2, 4)
  # Growing keeps the response, one pixel cannot.
  assert (m.b @ x) @ (m.p @ w) == pytest.approx(response, rel=1e-14)


@BOTH
def test_spectrum_of_a_patch_is_that_of_its_matrix(antialias):
  m = resizing.matrices(6, 4, antialias=antialias, dimensions=2)
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
  assert resizing.gain(old, new, antialias=False) == pytest.approx(
    expected, abs=0.03
  )
  assert 0.95 < resizing.gain(old, new, antialias=True) < 1.01


@BOTH
@pytest.mark.parametrize("correlation", [0, resizing.NEIGHBOURS])
def test_growing_keeps_every_response(antialias, correlation):
  growing = [(old, new) for old, new in PAIRS if old <= new]
  errors = [
    resizing.response_error(
      old, new, antialias=antialias, correlation=correlation
    )
    for old, new in growing
  ]
  assert len(errors) == 91
  assert max(errors) < 1e-9


@BOTH
def test_of_noise_the_error_is_the_share_that_is_dropped(antialias):
  # A = B^T P projects p^2 pixels to q^2 dimensions: 1 - A keeps the others.
  for old, new in PAIRS:
    if old > new:
      error = resizing.response_error(
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
  exact = resizing.response_error(
    old, new, antialias=antialias, correlation=correlation
  )
  # The slowest mean is over 200 kernels: about 1 / sqrt(2 * 200) = 5 % of the
  # squares where few directions of the 81 carry all, 2.5 % of their root.
  assert exact == pytest.approx(drawn, rel=0.075)
  other = resizing.response_error(
    old, new, antialias=antialias, correlation=0.95 - correlation
  )
  assert abs(other - drawn) > 0.3 * drawn


OLD, SIDES = 8, (4, 12)


def matrices_found(dimensions=1):
  return [
    resizing.matrices(OLD, new, antialias=aa, dimensions=dimensions)
    for aa in (False, True)
    for new in SIDES
  ]


def test_maps_stand_in_rows_of_sizes():
  matrices = matrices_found()
  figure = resizing.draw_matrices(matrices)
  maps = [axes for axes in figure.axes if axes.get_title()]
  assert [axes.get_title() for axes in maps] == [
    f"{name}, 8 to {new} px, antialias {aa}"
    for new in SIDES
    for aa in ("off", "on")
    for name in "BP"
  ]
  expected = [
    x
    for new in SIDES
    for aa in (False, True)
    for m in matrices
    if (m.new, m.antialias) == (new, aa)
    for x in (m.b, m.p)
  ]
  for axes, values in zip(maps, expected, strict=True):
    np.testing.assert_array_equal(axes.images[0].get_array(), values)
  # One scale for all of a kind, light at 0.
  limits = [axes.images[0].get_clim() for axes in maps]
  assert len({*limits[0::2]}) == len({*limits[1::2]}) == 1
  assert all(low == -high for low, high in limits)


def test_spectra_that_are_equal_are_drawn_once():
  figure = resizing.draw_spectra(matrices_found())
  (axes,) = figure.axes
  assert [line.get_label() for line in axes.lines] == [
    "8 to 12 px, antialias on or off",
    "8 to 4 px, antialias off",
    "8 to 4 px, antialias on",
  ]
  off, on = (m.singular_values for m in matrices_found() if m.new == 12)
  np.testing.assert_array_equal(off, on)
  np.testing.assert_array_equal(axes.lines[0].get_ydata(), off)


def test_curves_have_a_dot_at_the_sides_asked_for():
  curves = [
    resizing.curve(OLD, range(2, 13), antialias=aa) for aa in (False, True)
  ]
  figure = resizing.draw_curves(curves, SIDES)
  above, below = figure.axes
  gains = above.lines[:2]
  for line, curve in zip(gains, curves, strict=True):
    np.testing.assert_array_equal(line.get_ydata(), curve.gain)
    assert line.get_xdata()[line.get_markevery()].tolist() == [*SIDES]
  noise, *smooth = below.lines[:3]
  for curve in curves:
    # One line stands for both.
    np.testing.assert_allclose(
      noise.get_ydata(), curve.error_noise, rtol=0, atol=1e-12
    )
  for line, curve in zip(smooth, curves, strict=True):
    np.testing.assert_array_equal(line.get_ydata(), curve.error_smooth)
  (text,) = below.texts
  assert text.get_text().startswith("from 8 px on\nat most ")
