"""Rollout: products of attention, and what the head reads by them."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from readable import texts_inside

from flexivit_jax.analysis import images
from flexivit_jax.analysis import rollout as rollout_lib
from flexivit_jax.analysis.activations import (
  activations,
)
from flexivit_jax.analysis.rollout import read_by_pool, rollout

NAMES = ("attentions", "probe", "segments")


def attention(layers=3, b=2, heads=4, l=5):
  rng = np.random.default_rng(0)
  rows = rng.dirichlet(np.ones(l), (layers, b, heads, l))
  return [jnp.asarray(x, jnp.float32) for x in rows]


@pytest.mark.parametrize("residual", [0.0, 0.5, 0.9])
def test_rows_sum_to_1(residual):
  product = rollout(attention(), residual=residual)
  # Of float32.
  np.testing.assert_allclose(product.sum(-1), 1, rtol=0, atol=1e-6)
  assert (np.asarray(product) > 0).all()


def test_it_is_the_product_with_the_last_layer_first():
  layers = attention(layers=2)
  a, b = (np.asarray(x, np.float64).mean(axis=1) for x in layers)
  half = [(x + np.eye(5)) / 2 for x in (a, b)]
  # float32 against float64.
  near = {"rtol": 0, "atol": 1e-6}
  np.testing.assert_allclose(rollout(layers, residual=0), b @ a, **near)
  np.testing.assert_allclose(rollout(layers), half[1] @ half[0], **near)
  assert np.abs(b @ a - a @ b).max() > 1e-2


@pytest.mark.parametrize("residual", [-0.1, float("nan")])
def test_a_residual_that_is_no_share_is_refused(residual):
  with pytest.raises(
    ValueError, match=f"residual is {residual:g}: give 0 to 1"
  ):
    rollout(attention(), residual=residual)


@pytest.mark.parametrize("pool", tiny.POOLS)
def test_what_the_head_reads_is_shared_among_an_image_s_own_patches(pool):
  model = tiny.model("rotary", pool, registers=1)
  tokens = tiny.packed(shuffle=True)
  found = activations(model, tiny.params(model), tokens, NAMES)
  read = np.asarray(read_by_pool(model, found, tokens))
  assert read.shape == (1, 4, tokens.patches.shape[1])
  segments = np.asarray(tokens.segments)
  for slot in range(4):
    own = segments == slot + 1
    assert (read[:, slot][~own] == 0).all()
    assert (read[:, slot][own] > 0).all()
  # Class token and register have a share; the class token's own is, by the
  # residual, at least 1 / 4.
  sums = read.sum(-1)[:, [0, 2, 3]]
  assert (sums > 0.1).all()
  assert (sums < (0.75 if pool == "tok" else 1)).all()


@pytest.mark.parametrize(
  "pool",
  [
    # Two programs each.
    pytest.param("gap", marks=pytest.mark.slow),
    pytest.param("map", marks=pytest.mark.slow),
    "tok",
  ],
)
def test_packed_images_are_read_as_alone(pool):
  model = tiny.model("rotary", pool, registers=1)
  params, tokens = tiny.params(model), tiny.packed(shuffle=True)
  found = activations(model, params, tokens, NAMES)
  read = np.asarray(read_by_pool(model, found, tokens))
  for (row, slot, own), image in zip(images.places(tokens), tiny.images()[:2]):
    alone = tiny.alone(image)
    found_alone = activations(model, params, alone, NAMES)
    expected = read_by_pool(model, found_alone, alone)[0, 0]
    coords = np.asarray(tokens.coords)[row, own]
    order = coords[:, 0] * np.asarray(alone.grid_hw)[0, 0, 1] + coords[:, 1]
    # The same sums in another order, of float32.
    np.testing.assert_allclose(
      read[row, slot, own], expected[order], rtol=0, atol=1e-6
    )


def test_heat_has_one_scale_in_multiples_of_the_mean():
  pixels = [np.full((8, 12, 3), 50, np.uint8), np.zeros((8, 8, 3), np.uint8)]
  heat = [np.array([[0.1, 0.2, 0.3]]), np.array([[1.0, np.nan]])]
  figure = rollout_lib.draw(pixels, heat, "Title")
  assert "Title" in texts_inside(figure)
  drawn = [axes.images[0] for axes in figure.axes[2:4]]
  np.testing.assert_allclose(drawn[0].get_array(), [[0.5, 1, 1.5]])
  assert drawn[1].get_array().filled(-1).tolist() == [[1, -1]]
  for x in drawn:
    np.testing.assert_allclose((x.norm.vmin, x.norm.vmax), (0.5, 1.5))
  # As large as the image, whatever the patches.
  assert drawn[0].get_extent() == [-0.5, 11.5, 7.5, -0.5]
