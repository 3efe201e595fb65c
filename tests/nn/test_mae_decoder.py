"""The decoder: what is put where, and its parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.core import masking
from flexivit_jax.core.tokens import patchify
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.heads.mae_decoder import DecoderSpec
from flexivit_jax.nn.positions import learned_grid, row_column, waves

SIZE = encoder.Size(16, 1, 32, 2)
MODEL = vit.ViT(
  size=encoder.Size(8, 1, 16, 2),
  position=waves.SinCos2D(),
  pool=pooling.Gap(),
  kernel_hw=(2, 2),
  num_classes=0,
)
TOKENS = patchify(np.zeros((2, 4, 6, 3), np.uint8), (2, 2))
NUMBERS = jnp.array([[5, 1, 4, 0, 3, 2], [0, 1, 2, 3, 4, 5.0]])


def _masked():
  return masking.hide(TOKENS, NUMBERS, 0.5)


def _parameters(position):
  decoder = DecoderSpec(SIZE, position).build(MODEL)
  encoded = jnp.zeros((2, 3, 8))

  def init(key):
    return decoder.init(key, encoded, TOKENS, _masked())["params"]

  return decoder, jax.jit(init)(jax.random.key(0))


@pytest.mark.parametrize(
  ("position", "names"),
  [
    (waves.SinCos2D(), {}),
    (learned_grid.LearnedGrid((3, 3)), {"pos_embedding": (1, 9, 16)}),
    (
      row_column.RowColumn((4, 5)),
      {"pos_embedding_row": (4, 16), "pos_embedding_col": (5, 16)},
    ),
    (waves.Fourier(), {"pos_embedding_fourier_kernel": (2, 8)}),
  ],
  ids=lambda x: type(x).__name__,
)
def test_parameters(position, names):
  decoder = DecoderSpec(SIZE, position).build(MODEL)
  shapes = jax.eval_shape(
    decoder.init, jax.random.key(0), jnp.zeros((2, 3, 8)), TOKENS, _masked()
  )["params"]
  shapes = jax.tree.map(lambda x: x.shape, shapes)
  assert shapes.pop("embedding") == {"kernel": (8, 16), "bias": (16,)}
  assert shapes.pop("mask_token") == (1, 1, 16)
  assert shapes.pop("pixels") == {"kernel": (16, 2, 2, 3), "bias": (2, 2, 3)}
  assert shapes.pop("Transformer").keys() == {"encoderblock_0", "encoder_norm"}
  assert shapes == names


def test_each_visible_token_goes_to_its_place():
  """With blocks that add nothing, a patch's answer depends on its own token;
  hidden ones on none."""
  decoder, params = _parameters(waves.SinCos2D())
  block = params["Transformer"]["encoderblock_0"]
  for name, last in (
    ("MultiHeadDotProductAttention_0", "out"),
    ("MlpBlock_0", "Dense_1"),
  ):
    block[name][last] = jax.tree.map(jnp.zeros_like, block[name][last])
  encoded = jax.random.normal(jax.random.key(1), (2, 3, 8))
  masked = _masked()

  @jax.jit
  @jax.jacrev
  def slopes(encoded):
    return decoder.apply({"params": params}, encoded, TOKENS, masked).sum(-1)

  # [b, l, b, v]: which answers see which visible token.
  seen = np.abs(np.asarray(slopes(encoded))).sum(axis=-1) > 0
  wanted = np.zeros((2, 6, 2, 3), bool)
  for row, places in enumerate(([1, 3, 5], [0, 1, 2])):
    wanted[row, places, row, [0, 1, 2]] = True
  np.testing.assert_array_equal(seen, wanted)
