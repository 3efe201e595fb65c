"""Stems: what they leave as it is, what the model does with them, refusals."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, use_abstract_mesh

from flexivit_jax.core.tokens import patchify
from flexivit_jax.models import shared_rows, vit
from flexivit_jax.models.backbone import check_patch_size
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid
from flexivit_jax.nn.stems import stem as stem_lib
from flexivit_jax.nn.stems.early_convolutions import EarlyConvolutions
from flexivit_jax.nn.stems.resnet import ResNet

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), np.uint8)


@dataclasses.dataclass(frozen=True)
class Identity(stem_lib.Stem):
  """Cells are pixels."""

  def __call__(self, images, dtype, *, remat):
    assert images.dtype == dtype
    return images


@dataclasses.dataclass(frozen=True)
class Halved(stem_lib.Stem):
  """Cells are means of 2x2 pixels."""

  stride = 2

  def __call__(self, images, dtype, *, remat):
    b, h, w, c = images.shape
    return images.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def _model(**changes):
  fields = dict(
    size=encoder.Size(16, 1, 32, 2),
    position=learned_grid.LearnedGrid((3, 3)),
    pool=pooling.ClassToken(),
    kernel_hw=(4, 4),
    num_classes=5,
  )
  return vit.ViT(**(fields | changes))


def _params(model, tokens):
  """Without the zeros of fresh heads and norms."""
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens))
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), shapes
  )


@functools.partial(jax.jit, static_argnums=0)
def _outputs(model, params, tokens):
  return model.apply(params, tokens)


@functools.partial(jax.jit, static_argnums=0)
def _value_and_gradient(model, params, tokens):
  def loss(params):
    logits = model.apply(params, tokens).logits
    return jnp.square(logits - 1).sum(), logits

  (_, logits), gradient = jax.value_and_grad(loss, has_aux=True)(params)
  return logits, gradient


@pytest.mark.parametrize(
  "options",
  [
    dict(image_mean=(0.4, 0.5, 0.6), image_std=(0.2, 0.3, 0.25)),
    pytest.param(
      dict(dtype="bfloat16", standardize=True), marks=pytest.mark.slow
    ),
  ],
)
def test_an_identity_is_a_plain_vit(options):
  tokens = patchify(jnp.asarray(IMAGES), (8, 4))
  plain = _model(**options)
  params = _params(plain, tokens)
  got = _value_and_gradient(plain.clone(stem=Identity()), params, tokens)
  wanted = _value_and_gradient(plain, params, tokens)
  # The same operations on the same numbers.
  jax.tree.map(np.testing.assert_array_equal, got, wanted)
  assert np.abs(np.asarray(wanted[0], np.float32)).max() > 0.1


@pytest.mark.parametrize("patch_hw", [(2, 2), (8, 4)])
def test_patches_are_cut_of_the_feature_map(patch_hw):
  """Down to one cell, and PI-resized in cells."""
  model = _model(kernel_hw=(2, 2), stem=Halved())
  tokens = patchify(jnp.asarray(IMAGES), patch_hw)
  params = _params(model, tokens)
  b, h, w, c = IMAGES.shape
  halved = (IMAGES / 127.5 - 1).reshape(b, h // 2, 2, w // 2, 2, c)
  cells = tuple(n // 2 for n in patch_hw)
  of_cells = patchify(jnp.asarray(halved.mean((2, 4)), jnp.float32), cells)
  got = _outputs(model, params, tokens)
  wanted = _outputs(_model(kernel_hw=(2, 2)), params, of_cells)
  # Means of four numbers, rounded in another order.
  np.testing.assert_allclose(got.encoded, wanted.encoded, rtol=0, atol=2e-5)
  np.testing.assert_array_equal(got.encoded.shape, wanted.encoded.shape)
  upside_down = _outputs(model, params, patchify(IMAGES[:, ::-1], patch_hw))
  assert np.abs(upside_down.encoded - wanted.encoded).max() > 0.01


HYBRID = _model(stem=ResNet((1, 1), width=8), kernel_hw=(1, 1))


GAP = HYBRID.clone(pool=pooling.Gap())
TOKENS = patchify(np.zeros((1, 24, 24, 3), np.uint8), (8, 8))
PART = dataclasses.replace(
  TOKENS,
  patches=TOKENS.patches[:, :2],
  coords=TOKENS.coords[:, :2],
  grid_hw=TOKENS.grid_hw[:, :2],
  whole_grid=None,
)


def _init(tokens):
  return jax.eval_shape(lambda: HYBRID.init(jax.random.key(0), tokens))


def _init_in_groups():
  group = AbstractMesh((1, 2), ("data", "seq"), axis_types=(AxisType.Auto,) * 2)
  with use_abstract_mesh(group):
    return _init(TOKENS)


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (
      lambda: check_patch_size(HYBRID, (24, 24), (12, 8)),
      "one cell of 8x8: give multiples of 8, such as 16x8",
    ),
    (lambda: _init(patchify(IMAGES[:, :12], (12, 8))), "such as 16x8"),
    (lambda: _init(PART), 'so take stem="none"'),
    (lambda: stem_lib.check_packing(HYBRID.stem), 'so take stem="none"'),
    (_init_in_groups, "2 devices share the tokens of each: take seq=1"),
    (
      lambda: shared_rows.check_model(
        HYBRID.clone(pool=pooling.Gap()), parts=2
      ),
      'axis seq share each row: take stem="none", or seq=1',
    ),
    (
      lambda: _model(stem=EarlyConvolutions((8, 8, 8)), kernel_hw=(1, 17)),
      "so for patches of 8x136: give (1, 1) for patches of 8x8, and at most "
      "128 pixels",
    ),
    (lambda: ResNet((3, 0)), "blocks is (3, 0): give at most 5 stages of 1 to"),
    (lambda: ResNet(width=4), "width is 4: give 8 to 4096 channels"),
    (lambda: EarlyConvolutions(()), "widths is (): give those of 1 to 6"),
    (lambda: EarlyConvolutions((8, 5000)), "(8, 5000): give 8 to 4096"),
  ],
)
def test_refusals(make, text):
  with pytest.raises(ValueError, match=re.escape(text)):
    make()
