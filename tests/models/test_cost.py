"""Costs against the traced program, XLA's count and published tables."""

import math

import jax.numpy as jnp
import pytest

from flexivit_jax.models import cost, vit
from flexivit_jax.models import sizes as sizes_lib
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid, relative, waves
from tests.models import traced


def _model(size, **changes):
  fields = dict(
    size=sizes_lib.SIZES.get(size, size),
    position=learned_grid.LearnedGrid((7, 7)),
    pool=pooling.ClassToken(),
    num_classes=1000,
  )
  return vit.ViT(**(fields | changes))


TINY = encoder.Size(16, 2, 40, 2)

OPTIONS = {
  "gap": dict(pool=pooling.Gap()),
  "gap beside a class token": dict(pool=pooling.Gap(class_token=True)),
  "prefix with positions": dict(registers=2, prefix_position=True),
  "no head": dict(num_classes=0),
  "representation": dict(representation=True),
  "channels": dict(channels=5),
  "no resize": dict(kernel_hw=(4, 6)),
  "sines": dict(position=waves.SinCos2D()),
  "relative": dict(position=relative.Relative((3, 7)), registers=2),
  "norms and scales": dict(
    qk_norm=True, layer_scale=0.1, embedding_norm=True, exact_gelu=True
  ),
  "gated, map": dict(gated_mlp=True, pool=pooling.Map()),
  "scan and remat": dict(scan=True, remat=True),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_equals_the_products_of_the_traced_model(options):
  model, sizes = _model(TINY, **options), ((16, 36), (4, 6))
  # What is resized once for a batch falls out.
  one, two = (
    traced.products(f, *arguments)
    for f, arguments in (traced.forward(model, *sizes, rows) for rows in (1, 2))
  )
  assert cost.multiply_adds(model, *sizes) == two - one


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
