"""Representations of a few images, layer by layer, and their similarity."""

import numpy as np
import pytest
import tiny

from flexivit_jax.analysis import cka, layer_similarity, layout
from flexivit_jax.analysis.activations import activations
from flexivit_jax.core.resize import resize_grid
from flexivit_jax.core.tokens import patchify


def layers_of(model, tokens):
  params = tiny.params(model)
  found = activations(model, params, tokens, ("front", "patches", "outputs"))
  return (
    found,
    layer_similarity.pooled_layers(model, found, tokens),
    layer_similarity.patch_layers(found, tokens),
  )


@pytest.mark.parametrize("pool", ["gap", "tok"])
def test_packed_images_have_the_layers_that_they_have_alone(pool):
  model = tiny.model(pool=pool, registers=1)
  _, pooled, patches = layers_of(model, tiny.packed(shuffle=True))
  for i, image in enumerate(tiny.images()[:2]):
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
  for place, vectors in zip(layout.places(tokens), pooled, strict=True):
    for x, got in zip(found.front, vectors, strict=True):
      np.testing.assert_array_equal(got, x[place.row, 3 * place.slot])


def test_without_one_it_is_the_mean_of_the_patches():
  model = tiny.model(registers=1)
  _, pooled, patches = layers_of(model, tiny.packed(shuffle=True))
  for vectors, maps in zip(pooled, patches, strict=True):
    for got, own in zip(vectors, maps, strict=True):
      np.testing.assert_allclose(got, own.mean(axis=(0, 1)), rtol=0, atol=1e-5)


def test_the_common_grid_is_no_larger_than_any():
  def images(*grids):
    return [[np.zeros((*grid, 4))] for grid in grids]

  sizes = {(4, 4): images((6, 3), (5, 5)), (8, 8): images((4, 4), (9, 4))}
  assert layer_similarity.common_grid(sizes) == (4, 3)


def test_grams_compare_the_same_places():
  rng = np.random.default_rng(0)
  maps = rng.normal(size=(200, 4, 4, 5))
  images = [[x] for x in maps]
  (own,) = layer_similarity.patch_grams(images, (4, 4))
  np.testing.assert_allclose(own, cka.gram(maps), rtol=0, atol=1e-12)
  # Scaled down before, or by the function itself.
  small = np.stack([resize_grid(x, (2, 2), antialias=True) for x in maps])
  (down,) = layer_similarity.patch_grams(images, (2, 2))
  np.testing.assert_allclose(down, cka.gram(small), rtol=0, atol=1e-12)
  # Turned round, each place meets another one.
  (turned,) = layer_similarity.patch_grams([[x[::-1]] for x in small], (2, 2))
  assert np.vdot(down, turned) == pytest.approx(1, abs=1e-12)
  # Of every second image alone: half of the pairs of images are others.
  mixed = [[np.roll(x, i % 2, axis=0)] for i, x in enumerate(small)]
  (mixed,) = layer_similarity.patch_grams(mixed, (2, 2))
  assert np.vdot(down, mixed) < 0.9


def test_chance_is_the_similarity_of_different_images():
  rng = np.random.default_rng(3)
  few, many = (
    np.stack([cka.gram(rng.normal(size=(40, d)))]) for d in (2, 4000)
  )
  # A representation is like itself, and not if the images are others; with
  # many more features than images it is like anything.
  for grams, low, high in ((few, 0, 0.2), (many, 0.9, 1)):
    assert layer_similarity.same_layer(grams, grams) == pytest.approx(1)
    assert low <= layer_similarity.by_chance(grams, grams)[0] <= high


def test_what_positions_add_falls_out():
  rng = np.random.default_rng(1)
  maps = rng.normal(size=(12, 3, 3, 4))
  places = 10 * rng.normal(size=(1, 3, 3, 4))
  (a,), (b,) = (
    layer_similarity.patch_grams([[x] for x in z], (3, 3))
    for z in (maps, maps + places)
  )
  np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


def test_a_model_at_one_size_is_like_itself_and_less_at_another():
  model = tiny.model()
  rng = np.random.default_rng(2)
  pixels = rng.integers(0, 256, (10, 12, 12, 3), np.uint8)
  grams = {}
  for size in ((4, 4), (6, 6)):
    _, pooled, patches = layers_of(model, patchify(pixels, size))
    grams[size] = (
      layer_similarity.pooled_grams(pooled),
      layer_similarity.patch_grams(patches, (2, 2)),
    )
  for kind in (0, 1):
    a, b = (grams[size][kind] for size in ((4, 4), (6, 6)))
    assert a.shape == (3, 10, 10)
    np.testing.assert_allclose(
      layer_similarity.same_layer(a, a), 1, rtol=0, atol=1e-12
    )
    between = layer_similarity.same_layer(a, b)
    np.testing.assert_allclose(
      between, np.diag(cka.between(a, b)), rtol=0, atol=1e-12
    )
    assert (between < 0.99).all()
