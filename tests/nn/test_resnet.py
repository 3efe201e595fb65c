"""The ResNet stem: its weights' law, its sizes, published counts and costs."""

import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.checkpoints.model import parameter_count
from flexivit_jax.core.tokens import patchify
from flexivit_jax.models import cost, sizes, vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.convolution import standardize_weights
from flexivit_jax.nn.positions import learned_grid
from flexivit_jax.nn.stems.early_convolutions import EarlyConvolutions
from flexivit_jax.nn.stems.resnet import ResNet
from tests.models import traced


def test_filters_are_standardised():
  rng = np.random.default_rng(0)
  kernel = jnp.asarray(3 + 2 * rng.normal(size=(3, 3, 4, 6)), jnp.float32)
  found = standardize_weights(kernel)
  flat = np.asarray(found).reshape(-1, 6)
  # Sums of 36 float32 numbers.
  np.testing.assert_allclose(flat.mean(0), 0, atol=1e-6)
  # 1e-5 is added to a deviation of about 2.
  np.testing.assert_allclose(flat.std(0), 1, atol=1e-5)
  scales = jnp.arange(1, 7, dtype=jnp.float32).reshape(1, 1, 1, 6)
  moved = standardize_weights(5 * scales * kernel - scales)
  np.testing.assert_allclose(moved, found, atol=2e-5)
  # 1e-5 is added to the deviation: half of one that small is left.
  small = kernel / np.asarray(kernel).std(axis=(0, 1, 2), keepdims=True) * 1e-5
  np.testing.assert_allclose(
    np.asarray(standardize_weights(small)).std(axis=(0, 1, 2)), 0.5, atol=1e-3
  )


def _model(size, stem, cells, *, grid, num_classes=1000, **changes):
  return vit.ViT(
    sizes.SIZES.get(size, size),
    learned_grid.LearnedGrid((grid, grid)),
    pooling.ClassToken(),
    kernel_hw=(cells, cells),
    num_classes=num_classes,
    prefix_position=True,
    stem=stem,
    **changes,
  )


# Numbers of parameters that others give for these models, and to how many
# digits: R26+S/32 with 30 classes by TensorFlow Hub's users, the others in
# timm's tables of results.
COUNTS = [
  ("S", ResNet((2, 2, 2, 2)), 1, dict(grid=7, num_classes=30), 36_058_462, 1),
  ("B", ResNet((3, 4, 9)), 1, dict(grid=24), 98_950_000, 5000),
  ("L", ResNet((3, 4, 6, 3)), 1, dict(grid=7), 328_990_000, 5000),
  ("Ti", ResNet(()), 8, dict(grid=7), 6_340_000, 5000),
]


@pytest.mark.parametrize(
  ("size", "stem", "cells", "more", "count", "to"), COUNTS
)
def test_published_counts(size, stem, cells, more, count, to):
  model = _model(size, stem, cells, **more)
  assert abs(parameter_count(parameters.shapes(model)) - count) < to


STEMS = [
  ResNet((), width=8),
  ResNet((2,), width=8),
  ResNet((2, 1, 2), width=8),
  EarlyConvolutions((8, 24, 16)),
]
SMALL = encoder.Size(16, 1, 40, 2)


@pytest.mark.parametrize("stem", STEMS, ids=str)
def test_cost_and_sizes_are_those_of_the_traced_model(stem):
  model = _model(SMALL, stem, 1, grid=2)
  patch_hw = (stem.stride, stem.stride)
  image_hw = (2 * stem.stride, 3 * stem.stride)
  forward, arguments = traced.forward(model, image_hw, patch_hw)
  tokens = patchify(jnp.zeros((1, 2, 3, 1)), (1, 1))
  resized = traced.products(
    lambda table: model.position(
      {"pos_embedding": table}, tokens.coords, tokens.grid_hw, 16
    ),
    jnp.zeros((1, 4, 16)),
  )
  counted = cost.multiply_adds(model, image_hw, patch_hw)
  found = traced.products(forward, *arguments)
  assert abs(found - counted) <= max(1, resized)
  kernel = arguments[0]["params"]["embedding"]["kernel"]
  assert kernel.shape == (1, 1, stem.channels(3), 16)
