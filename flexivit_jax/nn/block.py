"""Normalisation, linear maps and the blocks of the encoder.

Parameter paths and shapes are big_vision's, so its checkpoints load as they
are; docs/parameters.md lists them all.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from flexivit_jax.attention import dense, local
from flexivit_jax.attention.distribution import Distribution
from flexivit_jax.attention.kernel import Kernel
from flexivit_jax.devices import axes
from flexivit_jax.nn.adaln import Modulation, modulated
from flexivit_jax.nn.attention import Attention
from flexivit_jax.nn.linear import dropout
from flexivit_jax.nn.mixers import Context
from flexivit_jax.nn.mlp import Mlp
from flexivit_jax.nn.norms import as_row, norm


class LayerScale(nn.Module):
  """Multiplies by a learned `[d]` that starts small (arXiv:2103.17239)."""

  init: float

  @nn.compact
  def __call__(self, x):
    init = nn.initializers.constant(self.init)
    scale = self.param("scale", init, (x.shape[-1],))
    return x * as_row(scale.astype(x.dtype), x)


class EncoderBlock(nn.Module):
  """Pre-norm transformer block: x + attention, x + MLP.

  Attributes:
    conditioned: the context's condition shifts and scales the norms and gates
      both branches (`conditioning.AdaLNZero`).
  """

  num_heads: int
  mlp_dim: int
  dtype: jnp.dtype
  eps: float
  exact_gelu: bool = False
  qk_norm: bool = False
  qkv_bias: bool = True
  layer_scale: float | None = None
  dropout: float = 0.0
  kernel: Kernel = dense.Dense()
  rms_norm: bool = False
  gated_mlp: bool = False
  proj_bias: bool = True
  attention_scale: float | None = None
  distribution: Distribution = local.Local()
  conditioned: bool = False

  @nn.compact
  def __call__(self, x, context, drop_path, train: bool):
    """x: `[b, l, d]`; context: None for that of separate images with nothing
    but added positions; drop_path: probability of leaving a branch out."""
    context = context or Context()
    segments, relation, _ = context
    parts = (None,) * 6
    if self.conditioned:
      parts = Modulation(6, self.dtype, name="modulation")(context)
    y = self._normed("LayerNorm_0", x, *parts[:2])
    y = Attention(
      self.num_heads,
      self.dtype,
      self.eps,
      self.qk_norm,
      self.qkv_bias,
      self.kernel,
      self.proj_bias,
      self.attention_scale,
      self.rms_norm,
      self.distribution,
      name="MultiHeadDotProductAttention_0",
    )(y, y, x_segments=segments, y_segments=segments, relation=relation)
    y = y if parts[2] is None else y * parts[2]
    x = x + self._branch(y, "LayerScale_0", segments, drop_path, train)
    y = self._normed("LayerNorm_1", x, *parts[3:5])
    y = Mlp(
      self.mlp_dim,
      self.dtype,
      self.exact_gelu,
      self.dropout,
      self.gated_mlp,
      self.proj_bias,
      name="MlpBlock_0",
    )(y, train=train)
    y = y if parts[5] is None else y * parts[5]
    return x + self._branch(y, "LayerScale_1", segments, drop_path, train)

  def _normed(self, name, x, shift, scale):
    if shift is None:
      return norm(self.eps, self.rms_norm, name)(x)
    return modulated(x, shift, scale, self.eps, self.rms_norm)

  def _branch(self, y, scale_name, segments, drop_path, train):
    if self.layer_scale is not None:
      y = LayerScale(self.layer_scale, name=scale_name)(y)
    y = dropout(self, self.dropout, y, train=train)
    if not train or drop_path is None:
      return y
    # Stochastic depth (arXiv:1603.09382), one draw for each image.
    keep, key = 1 - drop_path, self.make_rng("dropout")
    b, l, _ = y.shape
    if segments is None:
      kept = jax.random.bernoulli(key, keep, (b, 1))
    else:
      # A row of l tokens has no more images, besides its padding.
      row = l * axes.parts() if axes.inside_shard_map() else l
      kept = jax.random.bernoulli(key, keep, (b, row + 1))
      segments = jnp.broadcast_to(segments, (b, l))
      kept = jnp.take_along_axis(kept, segments, axis=1)
    return jnp.where(kept[..., None], y / keep.astype(y.dtype), 0)
