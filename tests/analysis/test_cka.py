"""Linear CKA: the laws of a similarity of representations."""

import numpy as np
import pytest

from flexivit_jax.analysis import cka

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 7)), RNG.normal(size=(40, 5))
# A sum of 40 x 40 products in float64.
NEAR = {"abs": 1e-12}


def linear_cka(x, y):
  return float(cka.between(cka.gram(x)[None], cka.gram(y)[None])[0, 0])


def test_a_representation_is_like_itself():
  assert linear_cka(X, X) == pytest.approx(1, **NEAR)
  assert linear_cka(X.astype(np.float32), X) == pytest.approx(1, abs=1e-6)


def test_turns_scales_and_shifts_do_not_count():
  turn, _ = np.linalg.qr(RNG.normal(size=(7, 7)))
  plain = linear_cka(X, Y)
  for changed in (X @ turn, -3 * X, X + 100 * RNG.normal(size=(1, 7))):
    # Shifted by 100 standard deviations, four digits are lost.
    assert linear_cka(X, changed) == pytest.approx(1, abs=1e-10)
    assert linear_cka(changed, Y) == pytest.approx(plain, abs=1e-10)
  # Another linear map does: CKA is no canonical correlation.
  stretched = X * np.array([10, 1, 1, 1, 1, 1, 1.0])[None]
  assert linear_cka(X, stretched) < 0.7


def test_images_in_another_order_do_count():
  assert linear_cka(X, X[::-1]) < 0.5


def test_it_is_the_formula_of_covariances():
  x, y = (z - z.mean(axis=0, keepdims=True) for z in (X, Y))
  norm = np.linalg.norm
  expected = norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y))
  assert linear_cka(X, Y) == pytest.approx(expected, **NEAR)


def test_independent_features_of_many_images_are_unlike():
  n, p = 2000, 10
  got = linear_cka(RNG.normal(size=(n, p)), RNG.normal(size=(n, p)))
  # About p / n, and small beside 1 in any case.
  assert got == pytest.approx(p / n, rel=0.5)


def test_what_is_constant_has_no_similarity():
  for constant in (np.ones((40, 3)), np.zeros((40, 3))):
    assert np.isnan(linear_cka(constant, X))
  # Up to rounding of float32.
  noise = (1 + 1e-7 * RNG.normal(size=(40, 3))).astype(np.float32)
  assert np.isnan(linear_cka(noise, X))
  assert np.isfinite(linear_cka(1 + 1e-4 * X, X))


def test_all_pairs_at_once():
  grams = [np.stack([cka.gram(z) for z in pair]) for pair in ((X, Y), (Y, X))]
  got = cka.between(*grams)
  unlike = linear_cka(X, Y)
  np.testing.assert_allclose(
    got, [[unlike, 1], [1, unlike]], rtol=0, atol=1e-12
  )


def test_features_of_any_shape_are_flattened():
  flat = cka.gram(X[:, :6])
  np.testing.assert_array_equal(cka.gram(X[:, :6].reshape(40, 3, 2)), flat)


def test_other_images_or_too_few_are_refused():
  with pytest.raises(ValueError) as error:
    linear_cka(X, Y[:39])
  assert str(error.value) == "CKA of 40 with 39 images: give the same images"
  with pytest.raises(ValueError) as error:
    cka.gram(X[:1])
  assert str(error.value) == "CKA of 1 images: give at least 2"
