"""Mean attention distance: its exact values, in pixels, on grids and packs."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from flexivit_jax.analysis import images
from flexivit_jax.analysis.attention_distance import attention_distance
from flexivit_jax.core.tokens import patchify


def grid(side, patch, count=1):
  return patchify(np.zeros((count, side, side, 1), np.uint8), (patch, patch))


def uniform(l, heads=1):
  return jnp.full((1, heads, l, l), 1 / l)


def test_uniform_attention_on_14x14_tokens():
  got = attention_distance(uniform(196), grid(224, 16))
  # The mean over all pairs of cells, 0.52014 sides, which 0.5 or 2 / 3 is not.
  assert got.shape == (1, 1, 1)
  assert got[0, 0, 0] == pytest.approx(0.5201 * 224, abs=0.0005 * 224)


def test_each_head_is_the_literal_sum_over_patches_of_any_shape():
  # Two heads, patches of 4x6 pixels on 2x3, two images.
  rng = np.random.default_rng(0)
  tokens = tiny.grid()
  weights = rng.dirichlet(np.ones(6), (2, 2, 6)).astype(np.float32)
  got = attention_distance(jnp.asarray(weights), tokens)
  places = [(4 * r, 6 * c) for r in range(2) for c in range(3)]
  for image in range(2):
    for head in range(2):
      expected = np.mean(
        [
          sum(
            weights[image, head, q, k] * np.hypot(a - c, b - d)
            for k, (c, d) in enumerate(places)
          )
          for q, (a, b) in enumerate(places)
        ]
      )
      # Sums of float32.
      assert got[image, 0, head] == pytest.approx(expected, rel=1e-6)


def test_tokens_in_front_are_dropped_and_rows_scaled_to_1():
  rng = np.random.default_rng(1)
  tokens = tiny.grid(1)
  patches = rng.dirichlet(np.ones(6), (1, 2, 6))
  expected = attention_distance(jnp.asarray(patches, jnp.float32), tokens)
  # Two tokens in front take four fifths of each row, and have rows of their
  # own that go far.
  weights = np.zeros((1, 2, 8, 8), np.float32)
  weights[:, :, 2:, 2:] = 0.2 * patches
  weights[:, :, 2:, :2] = 0.4
  weights[:, :, :2, 7] = 1
  got = attention_distance(jnp.asarray(weights), tokens)
  np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("shuffle", [False, True])
def test_packed_images_are_as_alone(shuffle):
  tokens = tiny.packed(shuffle=shuffle, rows=2)
  segments = np.asarray(tokens.segments)
  same = segments[:, :, None] == segments[:, None]
  logits = np.random.default_rng(2).normal(size=(2, 3, *same.shape[1:]))
  weights = np.where(same[:, None], np.exp(logits), 0)
  weights /= weights.sum(-1, keepdims=True)
  got = attention_distance(jnp.asarray(weights, jnp.float32), tokens)
  # The second slot is empty.
  assert np.isnan(got[:, 1]).all()
  for row, slot, own in images.places(tokens):
    alone = dataclasses.replace(
      tokens,
      patches=tokens.patches[row : row + 1, own],
      coords=tokens.coords[row : row + 1, own],
      grid_hw=tokens.grid_hw[row : row + 1, own],
      segments=None,
      num_images=1,
    )
    of_image = weights[row : row + 1][:, :, own][..., own]
    expected = attention_distance(jnp.asarray(of_image, jnp.float32), alone)
    np.testing.assert_allclose(got[row, slot], expected[0, 0], rtol=1e-6)
