"""Costs against the traced program, XLA's count and published tables."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import pytest

from flexivit_jax.attention import dense
from flexivit_jax.core.tokens import patchify
from flexivit_jax.models import cost, vit
from flexivit_jax.models import sizes as sizes_lib
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid, position, relative, waves


def _model(size, **changes):
  fields = dict(
    size=sizes_lib.SIZES.get(size, size),
    position=learned_grid.LearnedGrid((7, 7)),
    pool=pooling.ClassToken(),
    num_classes=1000,
  )
  return vit.ViT(**(fields | changes))


def _forward(model, image_hw, patch_hw, rows):
  """The forward pass, and what to trace it with."""
  shape = (rows, *image_hw, model.channels)
  images = jax.ShapeDtypeStruct(shape, jnp.uint8)

  def init(images):
    return model.init(jax.random.key(0), patchify(images, patch_hw))

  def forward(params, images):
    out = model.apply(params, patchify(images, patch_hw))
    return out.pooled if out.logits is None else out.logits

  return forward, (jax.eval_shape(init, images), images)


def _per_image_and_once(count):
  """Splits a count of batches of 1 and 2 images."""
  one, two = count(1), count(2)
  return two - one, 2 * one - two


def _products(jaxpr):
  """Multiply-adds of all products in a traced program."""
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "dot_general":
      (contracted, _), _ = eqn.params["dimension_numbers"]
      shape = eqn.invars[0].aval.shape
      terms = math.prod(shape[axis] for axis in contracted)
      total += math.prod(eqn.outvars[0].aval.shape) * terms
    times = eqn.params.get("length", 1)  # of a scan
    for value in eqn.params.values():
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        total += times * _products(inner)
  return total


TINY = encoder.Size(16, 2, 40, 2)

OPTIONS = {
  "gap": dict(pool=pooling.Gap()),
  "class token": dict(),
  "gap beside a class token": dict(pool=pooling.Gap(class_token=True)),
  "prefix with positions": dict(registers=2, prefix_position=True),
  "map": dict(pool=pooling.Map()),
  "map and registers": dict(pool=pooling.Map(), registers=3),
  "class token and registers": dict(registers=3),
  "no head": dict(num_classes=0),
  "representation": dict(representation=True),
  "channels": dict(channels=5),
  "no resize": dict(kernel_hw=(4, 6)),
  "sines": dict(position=waves.SinCos2D()),
  "no positions": dict(position=position.NoPosition()),
  "relative": dict(position=relative.Relative((3, 7)), registers=2),
  "norms and scales": dict(
    qk_norm=True, layer_scale=0.1, embedding_norm=True, exact_gelu=True
  ),
  "gated": dict(gated_mlp=True, proj_bias=False, rms_norm=True),
  "gated, map": dict(gated_mlp=True, pool=pooling.Map()),
  "scan": dict(scan=True),
  "remat": dict(remat=True),
}


def _traced(model, image_hw, patch_hw):
  def count(rows):
    forward, args = _forward(model, image_hw, patch_hw, rows)
    return _products(jax.make_jaxpr(forward)(*args).jaxpr)

  return _per_image_and_once(count)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_equals_the_products_of_the_traced_model(options):
  model = _model(TINY, **options)
  per_image, _ = _traced(model, (16, 36), (4, 6))
  assert cost.multiply_adds(model, (16, 36), (4, 6)) == per_image


@pytest.mark.parametrize("patch_hw", [(4, 4), (8, 4), (24, 24)])
def test_equals_the_products_at_any_patch_size(patch_hw):
  model = _model(TINY)
  per_image, _ = _traced(model, (24, 48), patch_hw)
  assert cost.multiply_adds(model, (24, 48), patch_hw) == per_image


# XLA counts norms, activations and biases too: 0.3 % of the products of B and
# 0.7 % of those of S. Logits stay below the size from which heads go one by one
# on a CPU: XLA counts a loop's body once.
XLA = 0.01


@pytest.mark.parametrize(
  ("size", "image_hw", "patch_hw"),
  [
    ("S", (192, 192), (16, 16)),
    ("S", (96, 192), (8, 24)),
    ("S", (240, 240), (48, 48)),
    ("B", (240, 240), (48, 48)),
  ],
)
def test_xla_counts_the_same_and_what_is_left_out_is_small(
  size, image_hw, patch_hw
):
  model = _model(size)

  @functools.cache
  def count(rows):
    forward, args = _forward(model, image_hw, patch_hw, rows)
    # In operations: a multiply-add is two.
    return jax.jit(forward).lower(*args).cost_analysis()["flops"] / 2

  expected = cost.multiply_adds(model, image_hw, patch_hw)
  per_image, once = _per_image_and_once(count)
  assert 0 < per_image / expected - 1 < XLA
  mutants = _mutants(model, image_hw, patch_hw)
  if patch_hw == (48, 48):
    del mutants["no attention"]  # 0.5 % and less at 25 tokens
  for name, mutant in mutants.items():
    assert abs(per_image / mutant - 1) > XLA, name
  # Resizing the kernel and the positions, in a batch of 64: 0.4 % at most.
  assert once < 0.005 * 64 * expected


@pytest.mark.parametrize("grid", [5, 15, 30])
def test_within_two_percent_of_the_compiled_count(grid, monkeypatch):
  """Of a dense ViT of width 192 at 240 px, embedding and resizing included."""
  # All heads at once, or XLA would count one of them.
  monkeypatch.setattr(dense, "CPU_CACHE_BYTES", 1 << 60)
  size, patch_hw = encoder.Size(192, 2, 768, 3), (240 // grid, 240 // grid)
  model = _model(size, pool=pooling.Gap())

  def count(rows):
    forward, args = _forward(model, (240, 240), patch_hw, rows)
    compiled = jax.jit(forward).lower(*args).compile()
    return compiled.cost_analysis()["flops"] / 2

  per_image, _ = _per_image_and_once(count)
  expected = cost.multiply_adds(model, (240, 240), patch_hw)
  assert abs(per_image / expected - 1) < 0.02


def _mutants(model, image_hw, patch_hw):
  l, size = cost.row_length(model, image_hw, patch_hw), model.size
  right = cost.multiply_adds(model, image_hw, patch_hw)
  pixels = math.prod(image_hw) * model.channels
  return {
    "no attention": right - 2 * size.depth * l * l * size.width,
    "no patch embedding": right - pixels * size.width,
    "half the MLP": right - size.depth * l * size.width * size.mlp_dim,
    "no class token": right - right // l,
  }


# G multiply-adds of ViTs with class token and 1,000 classes: DeiT III
# (arXiv:2204.07118) as counted in MMPretrain's model zoo.
PUBLISHED = {
  ("S", 16, 224): 4.61,
  ("S", 16, 384): 15.52,
  ("B", 16, 224): 17.58,
  ("B", 16, 384): 55.54,
  ("L", 16, 224): 61.60,
  ("L", 16, 384): 191.21,
  ("H", 14, 224): 167.40,
}
# The tables count norms as well, at most 0.24 %, and have two decimals.
TABLE = 0.003


@pytest.mark.parametrize(("key", "expected"), PUBLISHED.items())
def test_equals_published_tables(key, expected):
  size, patch, image = key
  sizes = (image, image), (patch, patch)
  model = _model(size)
  assert cost.multiply_adds(model, *sizes) / 1e9 == pytest.approx(
    expected, rel=TABLE
  )
  mutants = _mutants(model, *sizes)
  # 0.3 % and less of the larger models and images.
  del mutants["no patch embedding"]
  if image == 384:
    del mutants["no class token"]
  for name, mutant in mutants.items():
    assert mutant / 1e9 != pytest.approx(expected, rel=TABLE), name


def test_a_packed_image_needs_its_own_patches_alone():
  # Class token, registers, attention pooling and relative positions too.
  for options in OPTIONS.values():
    model = _model(TINY, **options)
    sizes = [(4, 6)]
    # One image that fills a row is the row.
    whole = cost.packed_multiply_adds(model, 20, 1, sizes)
    # It is an image of one size.
    assert whole == cost.multiply_adds(model, (16, 30), (4, 6))
    halves = cost.packed_multiply_adds(model, jnp.full(2, 10.0), 1, sizes)
    # Two halves do not see each other, and what is left out of attention is
    # more than what a second class token adds.
    assert halves.sum() < cost.packed_multiply_adds(model, 20, 2, sizes)
    # Whole numbers below 2^24 in float32.
    assert halves[0] == cost.packed_multiply_adds(model, 10, 1, sizes)


def test_tokens():
  gap = _model(TINY, pool=pooling.Gap())
  tok = _model(TINY, registers=4)
  assert cost.tokens((24, 48), (4, 12)) == 24
  assert cost.row_length(gap, (24, 48), (4, 12)) == 24
  assert cost.row_length(tok, (24, 48), (4, 12)) == 29


def test_refusals():
  with pytest.raises(ValueError, match="24x24 pixels is not a whole number"):
    cost.tokens((24, 24), (5, 5))
  unset = dataclasses.replace(_model(TINY), num_classes=None)
  with pytest.raises(ValueError, match="num_classes is not set"):
    cost.multiply_adds(unset, (24, 24), (4, 4))
