"""PI-resize: its laws in float64, the reference's matrices, an example."""

import itertools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.core import pi_resize, resize

DATA = pathlib.Path(__file__).parents[1] / "data"
SIZES = (5, 6, 8, 10, 12, 15, 16, 20, 24, 30, 32, 40, 48)
GROWING = [(a, b) for a, b in itertools.product(SIZES, SIZES) if a <= b]
SHRINKING = [(a, b) for a, b in itertools.product(SIZES, SIZES) if a > b]


def _hw(text):
  return tuple(map(int, text.split("x")))


def test_bilinear_matrix_equals_the_reference():
  golden = np.load(DATA / "resize_matrices.npz")
  assert len(golden.files) >= 5
  for name in golden.files:
    old, new = map(_hw, name.removeprefix("B/").split("->"))
    # float32 rounding of the reference's own matrices.
    np.testing.assert_allclose(
      resize.resize_matrix(old, new), golden[name], rtol=0, atol=1e-5
    )


def test_two_by_two_example_by_hand():
  x = np.array([[0.1, 0.2], [0.3, 0.4]])
  w = np.array([[0.5, 0.6], [0.7, 0.8]])
  assert np.sum(x * w) == pytest.approx(0.7)
  for side, response in ((3, 0.7), (4, 0.7), (1, 0.65)):
    b = resize.resize_matrix((2, 2), (side, side))
    kernel = pi_resize.pi_resize(w[..., None, None], (side, side))
    # Growing keeps the response; shrinking cannot.
    assert (b @ x.ravel()) @ kernel.ravel() == pytest.approx(response)


def test_growing_keeps_every_response():
  for old, new in GROWING:
    rng = np.random.default_rng(old * 100 + new)
    w = rng.normal(size=(old, old, 3, 4))
    x = rng.normal(size=(old, old, 3))
    b = resize.bilinear_matrix(old, new)
    grown = np.einsum("ij,kl,jlc->ikc", b, b, x)
    before = np.einsum("ijc,ijcd->d", x, w)
    after = np.einsum("ijc,ijcd->d", grown, pi_resize.pi_resize(w, (new, new)))
    assert np.max(np.abs(after - before)) < 1e-9 * np.max(np.abs(before))


def test_shrinking_satisfies_the_normal_equations():
  for old, new in SHRINKING:
    w = np.random.default_rng(0).normal(size=(old, old, 1, 1))
    b = resize.resize_matrix((old, old), (new, new))
    w_new = pi_resize.pi_resize(w, (new, new))
    # argmin |B^T w' - w|: the gradient B (B^T w' - w) vanishes.
    assert np.max(np.abs(b @ (b.T @ w_new.ravel() - w.ravel()))) < 1e-8


@pytest.mark.parametrize(
  ("old", "new"),
  [
    ((16, 16), (12, 20)),
    # The pseudo-inverse of a matrix of a thousand rows takes seconds.
    pytest.param((32, 32), (20, 40), marks=pytest.mark.slow),
    pytest.param((32, 32), (48, 8), marks=pytest.mark.slow),
  ],
)
def test_mixed_sizes_stay_bounded(old, new):
  p = resize.pi_resize_matrix(old, new)
  assert np.max(np.abs(p)) < 2
  # The mutant is the published form: a 2-D float32 pseudo-inverse.
  b = resize.resize_matrix(old, new).astype(np.float32)
  assert np.max(np.abs(np.linalg.pinv(b.T, rcond=1e-15))) > 1e3


@pytest.mark.parametrize(
  ("old", "new"), [((8, 8), (12, 12)), ((8, 6), (4, 9)), ((12, 12), (4, 4))]
)
@pytest.mark.parametrize("antialias", [False, True])
def test_the_dual_equals_the_direct_form(old, new, antialias):
  rng = np.random.default_rng(0)
  w = rng.normal(size=(*old, 3, 5))
  x = rng.normal(size=(7, *new, 3))
  direct = np.einsum(
    "nijc,ijcd->nd", x, pi_resize.pi_resize(w, new, antialias=antialias)
  )
  resized = pi_resize.pi_resize_patches(x, old, antialias=antialias)
  assert resized.shape == (7, *old, 3)
  dual = np.einsum("nijc,ijcd->nd", resized, w)
  np.testing.assert_allclose(dual, direct, rtol=1e-12, atol=1e-12)


def test_jax_and_numpy_agree_and_jax_is_differentiable():
  w = np.random.default_rng(0).normal(size=(8, 8, 3, 4)).astype(np.float32)
  expected = pi_resize.pi_resize(w.astype(np.float64), (6, 12))
  got = jax.jit(lambda w: pi_resize.pi_resize(w, (6, 12)))(w)
  assert got.dtype == jnp.float32
  # Sums of 64 terms of order 1 in float32.
  np.testing.assert_allclose(got, expected, rtol=0, atol=5e-6)
  # The map is linear, so its gradient is its transpose.
  gradient = jax.grad(lambda w: pi_resize.pi_resize(w, (6, 12)).sum())(w)
  p = resize.pi_resize_matrix((8, 8), (6, 12))
  np.testing.assert_allclose(
    gradient[..., 0, 0].ravel(), p.sum(axis=0), rtol=0, atol=5e-6
  )


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("own", [(6, 6), (16, 16), (5, 9), (32, 7)])
def test_pi_resize_turns_a_stored_kernel_back(own, antialias):
  kernel = np.random.default_rng(0).normal(size=(*own, 3, 4))
  stored = pi_resize.store_kernel(kernel, (32, 32), antialias=antialias)
  assert stored.shape == (32, 32, 3, 4)
  back = pi_resize.pi_resize(stored, own, antialias=antialias)
  # Float64, and conditions of at most 6.
  np.testing.assert_allclose(back, kernel, rtol=0, atol=1e-11)
  twice = pi_resize.pi_resize(kernel, (32, 32), antialias=antialias)
  twice = pi_resize.pi_resize(twice, own, antialias=antialias)
  assert np.abs(twice - kernel).max() > 0.1


def test_a_stored_kernel_treats_patches_as_resized():
  rng = np.random.default_rng(0)
  kernel, patch = rng.normal(size=(6, 9, 3, 4)), rng.normal(size=(16, 8, 3))
  stored = pi_resize.store_kernel(kernel, (16, 8))
  small = resize.resize_grid(patch, (6, 9), antialias=False)
  np.testing.assert_allclose(
    np.einsum("hwc,hwcd->d", patch, stored),
    np.einsum("hwc,hwcd->d", small, kernel),
    rtol=0,
    atol=1e-12,
  )


def test_resizing_a_grid_equals_jax():
  table = np.random.default_rng(0).normal(size=(7, 5, 3))
  for new_hw in ((7, 5), (3, 9), (14, 2)):
    for antialias in (False, True):
      got = resize.resize_grid(table, new_hw, antialias=antialias)
      expected = jax.image.resize(
        table.astype(np.float32), (*new_hw, 3), "linear", antialias=antialias
      )
      # float32 weights of jax against float64 here.
      np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


MIXED = ((4, 4), (8, 6), (3, 9), (8, 9))


def mixed_patches(beside, kernel_hw=(6, 5), dtype=np.float64):
  """Patches of all sizes, what is beside the small ones, and a kernel."""
  rng = np.random.default_rng(0)
  index = rng.integers(0, len(MIXED), (2, 11))
  index[0, :4] = range(4)
  patches = np.full((2, 11, 8, 9, 3), beside, dtype)
  for at in np.ndindex(*index.shape):
    h, w = MIXED[index[at]]
    patches[at][:h, :w] = rng.normal(size=(h, w, 3))
  kernel = rng.normal(size=(*kernel_hw, 3, 5)).astype(dtype)
  return patches.reshape(2, 11, -1), index, kernel


def responses(patches, index, kernel, antialias=False):
  resized = pi_resize.pi_resize_mixed(
    patches, index, MIXED, kernel.shape[:2], antialias=antialias
  )
  return jnp.einsum("blx,xd->bld", resized, kernel.reshape(-1, 5))


@pytest.mark.parametrize("antialias", [False, True])
def test_mixed_sizes_equal_a_kernel_for_each(antialias, float64):
  patches, index, kernel = mixed_patches(beside=0.0)
  found = responses(patches, index, kernel, antialias)
  cut = patches.reshape(2, 11, 8, 9, 3)
  for at in np.ndindex(*index.shape):
    h, w = MIXED[index[at]]
    own = pi_resize.pi_resize(kernel, (h, w), antialias=antialias)
    expected = np.einsum("hwc,hwcd->d", cut[at][:h, :w], own)
    np.testing.assert_allclose(found[at], expected, rtol=0, atol=1e-12)


def test_what_lies_beside_a_small_patch_is_not_read(float64):
  clean, index, kernel = mixed_patches(beside=0.0)
  dirty = mixed_patches(beside=1e30)[0]
  np.testing.assert_array_equal(
    responses(dirty, index, kernel), responses(clean, index, kernel)
  )


KERNEL = np.random.default_rng(0).normal(size=(8, 6, 3, 5))


@pytest.mark.parametrize("antialias", [False, True])
def test_ways_to_resize_a_kernel(antialias):
  new_hw = (4, 9)

  def resized(how):
    return pi_resize.resize_kernel(KERNEL, new_hw, how=how, antialias=antialias)

  pi = pi_resize.pi_resize(KERNEL, new_hw, antialias=antialias)
  np.testing.assert_array_equal(resized("pi"), pi)
  # Each of the kernels as JAX resizes images.
  images = jax.image.resize(
    KERNEL.astype(np.float32), (*new_hw, 3, 5), "linear", antialias=antialias
  )
  plain = resized("bilinear")
  np.testing.assert_allclose(plain, images, rtol=0, atol=2e-6)
  # An area of 48 became one of 36.
  np.testing.assert_allclose(resized("area"), plain * 48 / 36, rtol=1e-12)
  norms, before = (
    np.linalg.norm(x.reshape(-1, 5), axis=0) for x in (resized("norm"), KERNEL)
  )
  np.testing.assert_allclose(norms, before, rtol=1e-12)
  # A multiple of each kernel, and of each its own.
  factors = (resized("norm") / plain).reshape(-1, 5)
  np.testing.assert_allclose(factors, factors[:1].repeat(len(factors), 0))
  assert len(set(factors[0].round(6))) == 5


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: resize.bilinear_matrix(8, 0), "new length 0"),
    (lambda: resize.pi_matrix(0, 8), "old length 0"),
    (
      lambda: pi_resize.resize_kernel(KERNEL, (4, 4), how="bicubic"),
      "resize 'bicubic': give one of pi, bilinear, area, norm",
    ),
  ],
)
def test_refusals(make, text):
  with pytest.raises(ValueError, match=re.escape(text)):
    make()
