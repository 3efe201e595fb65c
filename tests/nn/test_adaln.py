"""Conditioned blocks: identity at the beginning, steered image by image."""

import functools
import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.core.tokens import patchify
from flexivit_jax.models import cost, vit
from flexivit_jax.nn import adaln, mixers, norms, pooling
from flexivit_jax.nn import attention as attention_lib
from flexivit_jax.nn import block as block_lib
from flexivit_jax.nn import encoder as encoder_lib
from flexivit_jax.nn import mlp as mlp_lib
from flexivit_jax.nn.positions import waves
from tests.core.rows import in_one_row

SIZE = encoder_lib.Size(16, 2, 32, 2)


def _model(**changes):
  fields = dict(
    size=SIZE,
    position=waves.SinCos2D(),
    pool=pooling.Gap(),
    kernel_hw=(2, 2),
    num_classes=0,
    conditioning=adaln.AdaLNZero(),
  )
  return vit.ViT(**(fields | changes))


def _normal(seed, *shape):
  x = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(x, jnp.float32)


IMAGES = _normal(0, 2, 4, 4, 3)
TOKENS = patchify(IMAGES, (2, 2))
CONDITION = _normal(1, 2, 1, 16)


@functools.cache
def _initialised(model):
  return jax.jit(model.init)(jax.random.key(2), TOKENS)["params"]


def _params(model, scale=None):
  """As initialised; with a scale, all random."""
  params = _initialised(model)
  if scale is None:
    return params
  leaves, tree = jax.tree.flatten(params)
  rng = np.random.default_rng(0)
  leaves = [
    (scale * rng.normal(size=x.shape)).astype(np.float32) for x in leaves
  ]
  return jax.tree.unflatten(tree, leaves)


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def _apply(model, params, tokens, condition, **options):
  return model.apply({"params": params}, tokens, condition=condition, **options)


def _encoded(model, params, tokens=TOKENS, condition=CONDITION, **options):
  return _apply(model, params, tokens, condition, **options).encoded


@pytest.mark.parametrize(
  "rms_norm", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_blocks_begin_as_the_identity_exactly(rms_norm):
  """The whole encoder, and the model with the final norm after it."""
  model = _model(rms_norm=rms_norm)
  block = functools.partial(
    block_lib.EncoderBlock,
    *(2, 32, jnp.dtype("float32"), 1e-6),
    rms_norm=rms_norm,
    conditioned=True,
  )
  encoder = encoder_lib.Encoder(block, 2, None, conditioned=True)
  x, context = _normal(3, 2, 4, 16), mixers.Context(condition=100 * CONDITION)
  params = _params(model)["Transformer"]
  apply = jax.jit(functools.partial(encoder.apply, train=False))
  np.testing.assert_array_equal(apply({"params": params}, x, context), x)
  # And cease to be with any other numbers.
  other = _params(model, 0.1)["Transformer"]
  assert np.abs(apply({"params": other}, x, context) - x).max() > 0.1
  out = _apply(model, _params(model), TOKENS, 100 * CONDITION)
  want = norms.plain_norm(out.embedded, model.norm_eps, rms_norm)
  # A program adds up the statistics in another order.
  np.testing.assert_allclose(out.encoded, want, rtol=0, atol=1e-6)


def test_norms_have_no_parameters_and_maps_have_names():
  names = set(flax.traverse_util.flatten_dict(_params(_model()), sep="/"))
  block = "Transformer/encoderblock_0"
  shapes = {
    name: x.shape
    for name, x in flax.traverse_util.flatten_dict(
      _params(_model()), sep="/"
    ).items()
  }
  assert not [n for n in names if "LayerNorm" in n or "encoder_norm" in n]
  assert shapes[f"{block}/modulation/kernel"] == (16, 6, 16)
  assert shapes[f"{block}/modulation/bias"] == (6, 16)
  assert shapes["Transformer/modulation/kernel"] == (16, 2, 16)
  assert shapes["Transformer/modulation/bias"] == (2, 16)


def test_formula_of_a_block():
  """Written out with numpy, for one block with one-hot shifts and gates."""
  block = block_lib.EncoderBlock(
    2, 32, jnp.dtype("float32"), 1e-6, conditioned=True
  )
  x = _normal(3, 2, 5, 16)
  context = mixers.Context(condition=CONDITION)
  params = block.init(jax.random.key(0), x, context, None, False)["params"]
  kernel = _normal(4, 16, 6, 16)
  params = params | {
    "modulation": {"kernel": kernel, "bias": _normal(5, 6, 16)}
  }

  def apply(module, name, *args, **kwargs):
    return module.apply({"params": params[name]}, *args, **kwargs)

  silu = CONDITION / (1 + jnp.exp(-CONDITION))
  s = jnp.einsum("bed,dkf->bekf", silu, kernel)
  s = s + params["modulation"]["bias"].reshape(1, 1, 6, 16)

  def norm(x):
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(
      x.var(-1, keepdims=True) + 1e-6
    )

  attention = attention_lib.Attention(2, jnp.dtype("float32"), 1e-6)
  mlp = mlp_lib.Mlp(32, jnp.dtype("float32"))
  y = norm(x) * (1 + s[:, :, 1]) + s[:, :, 0]
  want = x + s[:, :, 2] * apply(
    attention, "MultiHeadDotProductAttention_0", y, y
  )
  y = norm(want) * (1 + s[:, :, 4]) + s[:, :, 3]
  want = want + s[:, :, 5] * apply(mlp, "MlpBlock_0", y, train=False)
  found = block.apply({"params": params}, x, context, None, False)
  # Numbers of about 10, in another order of sums.
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
  "changes",
  [
    pytest.param({"scan": True, "remat": True}, marks=pytest.mark.slow),
    pytest.param(
      {"registers": 2, "pool": pooling.ClassToken()}, marks=pytest.mark.slow
    ),
  ],
  ids=str,
)
def test_packed_scanned_and_rematerialised_agree(changes):
  """Values and gradients by the condition, of two images in one row."""
  model = _model(**changes)
  params = _params(model, 0.2)
  separate = _model(
    **{k: v for k, v in changes.items() if k not in ("scan", "remat")}
  )
  separate_params = params
  if model.scan:
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    separate_params = flax.traverse_util.unflatten_dict(
      parameters.unstack(flat, 2), sep="/"
    )
  packed = in_one_row(IMAGES, (2, 2))
  weights = _normal(6, 2, 4, 16)

  def of_packed(condition):
    empty = jnp.zeros((1, 1, 16))
    condition = jnp.concatenate([condition.reshape(1, 2, 16), empty], axis=1)
    encoded = _encoded(model, params, packed, condition)
    found = encoded[0, :8].reshape(2, 4, 16)
    return (found * weights).sum(), found

  def of_separate(condition):
    found = _encoded(separate, separate_params, TOKENS, condition)
    return (found * weights).sum(), found

  gradients = []
  for f in (of_packed, of_separate):
    gradients.append(jax.jit(jax.grad(f, has_aux=True))(CONDITION))
  (packed_d, packed_y), (d, y) = gradients
  # Of normalised numbers, in another order of sums.
  np.testing.assert_allclose(packed_y, y, rtol=0, atol=2e-5)
  np.testing.assert_allclose(packed_d, d, rtol=1e-4, atol=1e-4)
  assert np.abs(d).min(axis=-1).max() > 1e-4
  # A mutant: the other's condition.
  swapped = _encoded(separate, separate_params, TOKENS, CONDITION[::-1])
  assert np.abs(swapped - y).max() > 0.1


def test_cost_counts_the_maps():
  plain = _model(conditioning=adaln.Unconditioned())
  costs = [cost.multiply_adds(m, (4, 4), (2, 2)) for m in (_model(), plain)]
  assert costs[0] - costs[1] == (2 * 6 + 2) * 16 * 16


def test_refusals():
  model, plain = _model(), _model(conditioning=adaln.Unconditioned())
  for make, text in (
    (
      lambda: _encoded(model, _params(model), condition=None),
      "no condition was given: give one vector for each image, of shape "
      "(2, 1, 16)",
    ),
    (
      lambda: _encoded(model, _params(model), condition=CONDITION[:, :, :8]),
      "the condition has shape (2, 1, 8): give (2, 1, 16)",
    ),
    (
      lambda: _encoded(plain, _params(plain)),
      'build the model with conditioning="adaln_zero"',
    ),
    (lambda: _model(norm_after_pool=True), "give norm_after_pool=False"),
  ):
    with pytest.raises(ValueError, match=re.escape(text)):
      make()
