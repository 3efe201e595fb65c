"""The ResNet stem: its weights' law, its sizes, published counts and costs."""

import math

import jax
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


def _products(jaxpr):
  """Multiply-adds of products and convolutions, padding included."""
  total = 0
  for eqn in jaxpr.eqns:
    out = eqn.outvars[0].aval.shape
    match eqn.primitive.name:
      case "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        total += math.prod(out) * math.prod(shape[i] for i in contracted)
      case "conv_general_dilated":
        h, w, ins, _ = eqn.invars[1].aval.shape
        total += math.prod(out) * h * w * ins
    for value in eqn.params.values():
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        total += _products(inner)
  return total


def _forward(model, patch_hw, image_hw):
  images = jax.ShapeDtypeStruct((1, *image_hw, 3), jnp.uint8)

  def init(images):
    return model.init(jax.random.key(0), patchify(images, patch_hw))

  def forward(params, images):
    return model.apply(params, patchify(images, patch_hw)).logits

  return forward, (jax.eval_shape(init, images), images)


@pytest.mark.parametrize("stem", STEMS, ids=str)
def test_cost_and_sizes_are_those_of_the_traced_model(stem):
  model = _model(SMALL, stem, 1, grid=2)
  patch_hw = (stem.stride, stem.stride)
  image_hw = (2 * stem.stride, 3 * stem.stride)
  forward, arguments = _forward(model, patch_hw, image_hw)
  traced = _products(jax.make_jaxpr(forward)(*arguments).jaxpr)
  positions_resized = _products(
    jax.make_jaxpr(
      lambda table: model.position({"pos_embedding": table}, *_coords(), 16)
    )(jnp.zeros((1, 4, 16))).jaxpr
  )
  counted = cost.multiply_adds(model, image_hw, patch_hw)
  assert abs(traced - counted) <= max(1, positions_resized)
  kernel = arguments[0]["params"]["embedding"]["kernel"]
  assert kernel.shape == (1, 1, stem.channels(3), 16)


def _coords():
  tokens = patchify(np.zeros((1, 2, 3, 1), np.uint8), (1, 1))
  return tokens.coords, tokens.grid_hw


SHALLOW = encoder.Size(192, 2, 768, 3)


# XLA counts norms and ReLU as well, and leaves padding out: 0.2 % of R50+B/16,
# 1.2 % where there is less else.
@pytest.mark.parametrize(
  ("size", "stem", "cells", "pixels", "within"),
  [
    (SHALLOW, ResNet(()), 8, 32, 0.03),
    (SHALLOW, EarlyConvolutions(), 1, 16, 0.03),
    pytest.param("B", ResNet(), 1, 16, 0.002, marks=pytest.mark.slow),
  ],
)
def test_xla_counts_the_same(size, stem, cells, pixels, within):
  model = _model(size, stem, cells, grid=224 // pixels)
  patch_hw = (pixels, pixels)
  forward, arguments = _forward(model, patch_hw, (224, 224))
  lowered = jax.jit(forward).lower(*arguments)
  found = lowered.cost_analysis()["flops"] / 2
  counted = cost.multiply_adds(model, (224, 224), patch_hw)
  assert abs(found / counted - 1) < within
  without = counted - stem.multiply_adds((224, 224), 3)
  assert abs(found / without - 1) > within
