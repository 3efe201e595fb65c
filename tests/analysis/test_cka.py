"""Linear CKA: the laws of a similarity, and the layers that it compares."""

import numpy as np
import pytest
import tiny

from flexivit_jax.analysis import cka, images
from flexivit_jax.analysis.activations import activations
from flexivit_jax.core.resize import resize_grid

RNG = np.random.default_rng(0)


# A sum of 40 x 40 products in float64.
NEAR = {"abs": 1e-12}


def linear_cka(x, y):
  return float(cka.between(cka.gram(x)[None], cka.gram(y)[None])[0, 0])


X, Y = RNG.normal(size=(40, 7)), RNG.normal(size=(40, 5))


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


def test_it_is_the_formula_of_covariances():
  x, y = (z - z.mean(axis=0, keepdims=True) for z in (X, Y))
  norm = np.linalg.norm
  expected = norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y))
  assert linear_cka(X, Y) == pytest.approx(expected, **NEAR)


def test_what_is_constant_has_no_similarity():
  for constant in (np.ones((40, 3)), np.zeros((40, 3))):
    assert np.isnan(linear_cka(constant, X))
  # Up to rounding of float32.
  noise = (1 + 1e-7 * RNG.normal(size=(40, 3))).astype(np.float32)
  assert np.isnan(linear_cka(noise, X))
  assert np.isfinite(linear_cka(1 + 1e-4 * X, X))


def test_too_few_images_are_refused():
  with pytest.raises(ValueError) as error:
    cka.gram(X[:1])
  assert str(error.value) == "CKA of 1 images: give at least 2"


def layers_of(model, tokens, grid_hw=(2, 2)):
  params = tiny.params(model)
  found = activations(model, params, tokens, ("front", "patches", "outputs"))
  return (
    found,
    cka.pooled_layers(model, found, tokens),
    cka.patch_layers(found, tokens, grid_hw),
  )


@pytest.mark.parametrize(
  "pool",
  # Three programs each.
  ["tok", pytest.param("gap", marks=pytest.mark.slow)],
)
def test_packed_images_have_the_layers_that_they_have_alone(pool):
  model = tiny.model(pool=pool, registers=1)
  _, pooled, patches = layers_of(model, tiny.packed(shuffle=True))
  for i, image in enumerate(tiny.images()[:2]):
    # Of 2x3 and 4x2 patches, both scaled down to 2x2.
    assert [x.shape for x in patches[i]] == [(2, 2, 16)] * 3
    _, (own_pooled,), (own_patches,) = layers_of(model, tiny.alone(image))
    assert len(pooled[i]) == (2 if pool == "tok" else 3)
    assert len(patches[i]) == 3
    # The same sums in another order, of float32, of values of about 1.
    for got, expected in zip(
      [*pooled[i], *patches[i]], [*own_pooled, *own_patches], strict=True
    ):
      np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
      assert expected.std() > 1e-2


def test_the_class_token_is_the_first_of_its_slot():
  model, tokens = tiny.model(pool="tok", registers=2), tiny.packed()
  found, pooled, _ = layers_of(model, tokens)
  for place, vectors in zip(images.places(tokens), pooled, strict=True):
    for x, got in zip(found.front, vectors, strict=True):
      np.testing.assert_array_equal(got, x[place.row, 3 * place.slot])


def test_patches_are_scaled_down_from_where_they_lie():
  model, tokens = tiny.model(), tiny.packed(shuffle=True)
  found, _, patches = layers_of(model, tokens, (1, 2))
  for layer, x in enumerate(found.patches):
    for maps, own in zip(patches, images.to_images(tokens, x), strict=True):
      expected = resize_grid(own, (1, 2), antialias=True)
      np.testing.assert_allclose(maps[layer], expected, rtol=0, atol=1e-6)
  # The last image has that grid.
  np.testing.assert_array_equal(
    patches[-1][0], images.to_images(tokens, found.patches[0])[-1]
  )


def test_what_positions_add_falls_out():
  rng = np.random.default_rng(1)
  maps = rng.normal(size=(12, 3, 3, 4))
  places = 10 * rng.normal(size=(1, 3, 3, 4))
  (a,), (b,) = (cka.grams([[x] for x in z]) for z in (maps, maps + places))
  np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


def test_chance_is_the_similarity_of_different_images():
  rng = np.random.default_rng(3)
  few, many = (
    np.stack([cka.gram(rng.normal(size=(40, d)))]) for d in (2, 4000)
  )
  # A representation is like itself, and not if the images are others; with
  # many more features than images it is like anything.
  for grams, low, high in ((few, 0, 0.2), (many, 0.9, 1)):
    assert cka.same_layer(grams, grams) == pytest.approx(1)
    assert low <= cka.by_chance(grams, grams)[0] <= high
