"""Stems: what they leave as it is, what the model does with them, refusals."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, use_abstract_mesh

from flexivit_jax.config import registry
from flexivit_jax.core.tokens import patchify
from flexivit_jax.models import vit
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


def test_one_trace_for_each_patch_size():
  model = _model(stem=Halved(), kernel_hw=(2, 2))
  params = _params(model, patchify(IMAGES, (8, 8)))
  traced = []

  @jax.jit
  def forward(params, tokens):
    traced.append(tokens.patch_sizes)
    return model.apply(params, tokens).logits

  for _ in range(3):
    for size in ((4, 4), (8, 8)):
      forward(params, patchify(jnp.asarray(IMAGES), size))
  assert traced == [((4, 4),), ((8, 8),)]


@pytest.mark.slow
@pytest.mark.parametrize(
  "stem", [EarlyConvolutions((8, 16)), ResNet((1,), width=8)]
)
def test_bfloat16_and_remat_compute_the_same(stem):
  tokens = patchify(jnp.asarray(IMAGES), (4, 4))
  model = _model(stem=stem, kernel_hw=(1, 1))
  params = _params(model, tokens)
  logits, gradient = _value_and_gradient(model, params, tokens)
  again = _value_and_gradient(model.clone(remat=True), params, tokens)
  largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient))
  for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(again[1])):
    # The order of sums, of gradients up to 100.
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest)
  half = _outputs(model.clone(dtype="bfloat16"), params, tokens)
  assert half.stem.dtype == jnp.bfloat16
  # Eight bits of about ten products and norms.
  np.testing.assert_allclose(half.logits, logits, rtol=0, atol=0.2)
  assert np.abs(logits).max() > 0.5
  assert 0 < np.abs(half.logits - logits).max()


def _error(function):
  with pytest.raises(ValueError) as caught:
    function()
  return str(caught.value)


HYBRID = _model(stem=ResNet((1, 1), width=8), kernel_hw=(1, 1))


def test_patches_that_are_no_whole_cells_are_refused():
  tokens = patchify(np.zeros((1, 24, 24, 3), np.uint8), (12, 8))
  text = (
    "patches of 12x8 pixels, but the stem makes one cell of 8x8: give "
    "multiples of 8, such as 16x8, or a stem of a smaller stride"
  )
  assert _error(lambda: HYBRID.init(jax.random.key(0), tokens)) == text
  assert _error(lambda: check_patch_size(HYBRID, (24, 24), (12, 8))) == text
  check_patch_size(HYBRID, (24, 24), (8, 8))


PACKS = (
  "a convolutional stem takes whole images: packed rows and parts of an image "
  'have none, so take stem="none", or images of one size without packing or '
  "masking"
)


def test_packed_rows_and_parts_of_images_are_refused():
  tokens = patchify(np.zeros((1, 16, 16, 3), np.uint8), (8, 8))
  part = dataclasses.replace(
    tokens,
    patches=tokens.patches[:, :2],
    coords=tokens.coords[:, :2],
    grid_hw=tokens.grid_hw[:, :2],
    whole_grid=None,
  )
  assert _error(lambda: HYBRID.init(jax.random.key(0), part)) == PACKS
  assert _error(lambda: stem_lib.check_packing(HYBRID.stem)) == PACKS
  stem_lib.check_packing(stem_lib.NoStem())


def test_shared_rows_are_refused():
  tokens = patchify(np.zeros((1, 16, 16, 3), np.uint8), (8, 8))
  group = AbstractMesh((1, 2), ("data", "seq"), axis_types=(AxisType.Auto,) * 2)

  def init():
    with use_abstract_mesh(group):
      return jax.eval_shape(lambda: HYBRID.init(jax.random.key(0), tokens))

  assert _error(init) == (
    "a convolutional stem takes whole images, but 2 devices share the tokens "
    'of each: take seq=1, or stem="none"'
  )
  model = HYBRID.clone(pool=pooling.Gap())
  assert _error(lambda: vit.check_model(model, parts=2)) == (
    "a convolutional stem takes whole images, and 2 devices of the mesh's axis "
    'seq share each row: take stem="none", or seq=1'
  )


def test_other_channels_are_refused():
  tokens = patchify(np.zeros((1, 16, 16, 4), np.uint8), (8, 8))
  assert _error(lambda: HYBRID.init(jax.random.key(0), tokens)) == (
    "patches hold 256 numbers, but 8x8 pixels of 3 channels are 192"
  )


@pytest.mark.parametrize(
  ("stem", "kernel_hw", "text"),
  [
    (
      ResNet(),
      (32, 32),
      "kernel_hw (32, 32) is in cells of the stem, of 16x16 pixels each, so "
      "for patches of 512x512: give (1, 1) for patches of 16x16, and at most "
      "128 pixels",
    ),
    (
      EarlyConvolutions((8, 8, 8)),
      (1, 17),
      "kernel_hw (1, 17) is in cells of the stem, of 8x8 pixels each, so for "
      "patches of 8x136: give (1, 1) for patches of 8x8, and at most 128 "
      "pixels",
    ),
  ],
)
def test_kernels_in_pixels_are_refused(stem, kernel_hw, text):
  assert _error(lambda: _model(stem=stem, kernel_hw=kernel_hw)) == text
  side = stem_lib.MAX_PATCH // stem.stride
  model = _model(stem=stem, kernel_hw=(1, side))
  assert model.stored_patch_hw == (stem.stride, stem_lib.MAX_PATCH)


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (
      lambda: ResNet((3, 0)),
      "blocks is (3, 0): give at most 5 stages of 1 to 100 units, (3, 4, 9) "
      "say",
    ),
    (
      lambda: ResNet((1,) * 6),
      "blocks is (1, 1, 1, 1, 1, 1): give at most 5 stages of 1 to 100 units, "
      "(3, 4, 9) say",
    ),
    (lambda: ResNet(width=4), "width is 4: give 8 to 4096 channels"),
    (
      lambda: EarlyConvolutions(()),
      "widths is (): give those of 1 to 6 convolutions, (24, 48, 96, 192) say",
    ),
    (
      lambda: EarlyConvolutions((8, 5000)),
      "widths is (8, 5000): give 8 to 4096 channels",
    ),
  ],
)
def test_values_that_no_stem_has_are_refused(make, text):
  assert _error(make) == text


def test_configs_name_stems():
  chosen = registry.CHOICES[stem_lib.Stem]
  made = {name: stem() for name, stem in chosen.items()}
  assert {name: x.stride for name, x in made.items()} == {
    "none": 1,
    "resnet": 16,
    "early_convolutions": 16,
  }
  assert made["none"] == _model().stem
