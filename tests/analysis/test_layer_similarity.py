"""Representations of a few images, layer by layer, and their similarity."""

import numpy as np
import pytest
import tiny

from flexivit_jax.analysis import cka, images
from flexivit_jax.analysis.activations import activations
from flexivit_jax.core.resize import resize_grid
from flexivit_jax.core.tokens import patchify


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


def test_without_one_it_is_the_mean_of_the_patches():
  model, tokens = tiny.model(registers=1), tiny.packed(shuffle=True)
  found, pooled, _ = layers_of(model, tokens)
  for layer, x in enumerate(found.patches):
    for vectors, own in zip(pooled, images.to_images(tokens, x), strict=True):
      # The same sum in another order, of float32.
      np.testing.assert_allclose(
        vectors[layer], own.mean(axis=(0, 1)), rtol=0, atol=1e-5
      )


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


def test_the_common_grid_is_no_larger_than_any():
  grids = [(6, 3), (5, 5), (4, 4), (9, 4)]
  assert cka.common_grid(iter(grids)) == (4, 3)


def test_grams_compare_the_same_places():
  rng = np.random.default_rng(0)
  maps = rng.normal(size=(200, 2, 2, 5))
  (own,) = cka.grams([[x] for x in maps])
  np.testing.assert_array_equal(own, cka.gram(maps))
  # Of all images turned round, each place meets another one for all: the same
  # representation. Of every second image alone, half of the pairs of images
  # are compared at other places.
  (turned,) = cka.grams([[x[::-1]] for x in maps])
  assert np.vdot(own, turned) == pytest.approx(1, abs=1e-12)
  mixed = [[np.roll(x, i % 2, axis=0)] for i, x in enumerate(maps)]
  assert np.vdot(own, cka.grams(mixed)[0]) < 0.7


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


def test_a_model_at_one_size_is_like_itself_and_less_at_another():
  model = tiny.model()
  rng = np.random.default_rng(2)
  pixels = rng.integers(0, 256, (10, 12, 12, 3), np.uint8)
  grams = {}
  for size in ((4, 4), (6, 6)):
    _, pooled, patches = layers_of(model, patchify(pixels, size))
    grams[size] = (
      cka.grams(pooled),
      cka.grams(patches),
    )
  for kind in (0, 1):
    a, b = (grams[size][kind] for size in ((4, 4), (6, 6)))
    assert a.shape == (3, 10, 10)
    np.testing.assert_allclose(cka.same_layer(a, a), 1, rtol=0, atol=1e-12)
    between = cka.same_layer(a, b)
    np.testing.assert_allclose(
      between, np.diag(cka.between(a, b)), rtol=0, atol=1e-12
    )
    assert (between < 0.99).all()
