"""Normalisation, linear maps and the blocks of the encoder.

Parameter paths and shapes are big_vision's, so its checkpoints load as they
are; docs/parameters.md lists them all.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.attention import axes, dense, local
from flexivit_jax.attention.distribution import Distribution
from flexivit_jax.attention.kernels import Kernel
from flexivit_jax.attention.query_sharded import QuerySharded
from flexivit_jax.nn import conditioning
from flexivit_jax.nn.context import Context, RelativeIndex, Rotation

_bias_init = nn.initializers.normal(stddev=1e-6)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x, scale, bias, eps):
  """Layer normalisation over the last axis (arXiv:1607.06450).

  Statistics are at least float32. The gradient is the closed form: on a CPU
  it costs a third of what differentiating the statistics does.

  Args:
    x: `[..., d]`.
    scale, bias: `[d]`.
    eps: added to the variance. 1e-6 in big_vision and timm, 1e-12 in
      Hugging Face's ViT.

  Returns:
    `[..., d]` in the dtype of x.
  """
  return _layer_norm_forward(x, scale, bias, eps)[0]


def _row(vector, x):
  """`[d]` with the rank of x."""
  return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def _statistics(x, eps):
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  mean = x.mean(axis=-1, keepdims=True)
  variance = jnp.square(x - mean).mean(axis=-1, keepdims=True)
  return x, mean, jax.lax.rsqrt(variance + eps)


def _layer_norm_forward(x, scale, bias, eps):
  x32, mean, inverse = _statistics(x, eps)
  y = (x32 - mean) * inverse * _row(scale, x) + _row(bias, x)
  return y.astype(x.dtype), (x, mean, inverse, scale, bias)


def _layer_norm_backward(eps, saved, d_y):
  x, mean, inverse, scale, bias = saved
  d_y = d_y.astype(mean.dtype)
  normed = (x.astype(mean.dtype) - mean) * inverse
  g = d_y * _row(scale, x)
  d_x = inverse * (
    g
    - g.mean(axis=-1, keepdims=True)
    - normed * (g * normed).mean(axis=-1, keepdims=True)
  )
  rows = tuple(range(x.ndim - 1))
  d_scale = (d_y * normed).sum(axis=rows).astype(scale.dtype)
  return d_x.astype(x.dtype), d_scale, d_y.sum(axis=rows).astype(bias.dtype)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def rms_norm(x, scale, eps):
  """RMSNorm over the last axis (arXiv:1910.07467), statistics in float32.

  Args:
    x: `[..., d]`.
    scale: `[d]`.
    eps: added to the mean square.

  Returns:
    `[..., d]` in the dtype of x.
  """
  x32 = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  mean_square = jnp.square(x32).mean(axis=-1, keepdims=True)
  y = x32 * jax.lax.rsqrt(mean_square + eps) * _row(scale, x)
  return y.astype(x.dtype)


def linear(x, kernel, bias, dtype, *, contract: int = 1):
  """x times kernel plus bias, on the last `contract` axes of x.

  Leading axes are merged before the product: XLA on a CPU copies and
  transposes both factors of a weight gradient that sums over two axes. But not
  where devices share the tokens of a row: merged with rows, they would be
  gathered.

  Args:
    x: `[..., *i]`.
    kernel: `[*i, *o]`.
    bias: `[*o]`, or None for none.
    dtype: of the product.

  Returns:
    `[..., *o]` in `dtype`.
  """
  rows, outs = x.shape[: x.ndim - contract], kernel.shape[contract:]
  width = int(np.prod(kernel.shape[:contract]))
  shared = axes.parts() > 1 and not axes.inside_shard_map()
  x = x.astype(dtype).reshape(*(rows if shared else (-1,)), width)
  y = x @ kernel.astype(dtype).reshape(width, -1)
  if bias is not None:
    y = y + _row(bias.astype(dtype).reshape(-1), y)
  return y.reshape(*rows, *outs)


def dropout(module: nn.Module, rate: float, x, *, train: bool):
  """Dropout of each number, with the module's rng "dropout" in training."""
  key = None
  if train and rate and axes.inside_shard_map():
    # The devices of a sequence share the key, and have tokens of their own.
    key = module.make_rng("dropout")
    key = jax.random.fold_in(key, jax.lax.axis_index(axes.SEQ))
  return nn.Dropout(rate, deterministic=not train)(x, rng=key)


class LayerNorm(nn.Module):
  """`layer_norm` with its scale and bias."""

  eps: float

  @nn.compact
  def __call__(self, x):
    d = (x.shape[-1],)
    scale = self.param("scale", nn.initializers.ones, d)
    bias = self.param("bias", nn.initializers.zeros, d)
    return layer_norm(x, scale, bias, self.eps)


class RMSNorm(nn.Module):
  """`rms_norm` with its scale."""

  eps: float

  @nn.compact
  def __call__(self, x):
    scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
    return rms_norm(x, scale, self.eps)


def norm(eps: float, rms: bool, name: str | None, **options) -> nn.Module:
  return (RMSNorm if rms else LayerNorm)(eps, name=name, **options)


def plain_norm(x, eps: float, rms: bool):
  """`norm` without parameters."""
  scale = jnp.ones(x.shape[-1:], jnp.promote_types(x.dtype, jnp.float32))
  if rms:
    return rms_norm(x, scale, eps)
  return layer_norm(x, scale, jnp.zeros_like(scale), eps)


class Modulation(nn.Module):
  """The shifts, scales and gates that a condition asks for: linear maps of its
  SiLU that begin at zero (DiT, arXiv:2212.09748)."""

  count: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, context: Context):
    """`count` arrays `[b, l, d]`, or `[b, 1, d]` where a row is one image."""
    segments, condition = context.segments, context.condition
    b, e, d = condition.shape
    shape = (d, self.count, d)
    kernel = self.param("kernel", nn.initializers.zeros, shape)
    bias = self.param("bias", nn.initializers.zeros, shape[1:])
    y = linear(nn.silu(condition), kernel, bias, self.dtype)
    y = conditioning.of_tokens(y.reshape(b, e, self.count * d), segments)
    return jnp.split(y, self.count, axis=-1)


def modulated(x, shift, scale, eps: float, rms: bool):
  """x normalised, scaled and shifted; shift and scale as of `Modulation`."""
  return plain_norm(x, eps, rms) * (1 + scale) + shift


class Dense(nn.Module):
  """`linear` with its kernel and bias; maps `contract` axes to `features`."""

  features: tuple[int, ...]
  dtype: jnp.dtype
  contract: int = 1
  kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
  bias_init: nn.initializers.Initializer = nn.initializers.zeros
  use_bias: bool = True

  @nn.compact
  def __call__(self, x):
    ins = x.shape[x.ndim - self.contract :]

    def kernel_init(key, shape):
      # Fans are those of the flat matrix, not of one head.
      flat = int(np.prod(ins)), int(np.prod(self.features))
      return self.kernel_init(key, flat).reshape(shape)

    kernel = self.param("kernel", kernel_init, (*ins, *self.features))
    bias = None
    if self.use_bias:
      bias = self.param("bias", self.bias_init, self.features)
    return linear(x, kernel, bias, self.dtype, contract=self.contract)


class Attention(nn.Module):
  """Multi-head attention of x to y within segments.

  Attributes:
    qk_norm: norm of queries and keys over each head (ViT-22B,
      arXiv:2302.05442).
    qkv_bias: whether their projections have biases.
    out_bias: whether the projection of the output has one.
    scale: of the products of queries and keys; None: 1 / sqrt(d / heads).
    rms_norm: for qk_norm: RMSNorm.
    distribution: of the tokens' attention over devices.
  """

  num_heads: int
  dtype: jnp.dtype
  eps: float
  qk_norm: bool = False
  qkv_bias: bool = True
  kernel: Kernel = dense.Dense()
  out_bias: bool = True
  scale: float | None = None
  rms_norm: bool = False
  distribution: Distribution = local.Local()

  @nn.compact
  def __call__(self, x, y, *, x_segments=None, y_segments=None, relation=None):
    """x: `[b, lq, d]`, y: `[b, lk, d]`; returns `[b, lq, d]`.

    relation: as in `Context`, for lq = lk.
    """
    d = x.shape[-1]
    segments = {"q_segments": x_segments, "kv_segments": y_segments}
    q = self._query(x, relation)
    if self._gathers_activations():
      attended = self.distribution.from_activations(
        self.kernel,
        q,
        y,
        {
          name: self.variables["params"][name]
          for name in ("key", "value", "key_ln")[: 3 if self.qk_norm else 2]
        },
        self._keys_values_of,
        extra=relation,
        **segments,
      )
    else:
      k = self._normed("key_ln", self._project("key", d)(y))
      if isinstance(relation, Rotation):
        k = relation(k)
      v = self._project("value", d)(y)
      # For analysis, which computes the weights again; jit drops them unread.
      self.sow("intermediates", "queries", q)
      self.sow("intermediates", "keys", k)
      if isinstance(relation, RelativeIndex):
        attended = self._biased(q, k, v, relation, segments)
      else:
        attended = self.distribution(self.kernel, q, k, v, **segments)
    return Dense(
      (d,), self.dtype, contract=2, use_bias=self.out_bias, name="out"
    )(attended.out)

  def _project(self, name, d, **options):
    heads = (self.num_heads, d // self.num_heads)
    return Dense(
      heads, self.dtype, use_bias=self.qkv_bias, name=name, **options
    )

  def _query(self, x, relation):
    q = self._normed("query_ln", self._project("query", x.shape[-1])(x))
    if self.scale is not None:
      # Every kernel divides by sqrt(d / heads).
      q = q * (self.scale * q.shape[-1] ** 0.5)
    return relation(q) if isinstance(relation, Rotation) else q

  def _normed(self, name, x):
    return norm(self.eps, self.rms_norm, name)(x) if self.qk_norm else x

  def _gathers_activations(self) -> bool:
    return (
      isinstance(self.distribution, QuerySharded)
      and self.distribution.gather == "activations"
      and axes.parts() > 1
      and not self.is_initializing()
    )

  def _keys_values_of(self, parameters, y, relation):
    """The keys and values of y with these parameters: a pure function."""

    def apply(module, name, x):
      return module.apply({"params": parameters[name]}, x)

    k, v = (
      apply(self._project(None, y.shape[-1], parent=None), name, y)
      for name in ("key", "value")
    )
    if self.qk_norm:
      k = apply(norm(self.eps, self.rms_norm, None, parent=None), "key_ln", k)
    return (relation(k) if isinstance(relation, Rotation) else k), v

  def _biased(self, q, k, v, relation, segments):
    if not isinstance(self.kernel, dense.Dense):
      raise ValueError(
        "relative positions need the attention kernel dense: the others "
        "have no bias"
      )
    shape = (*relation.table_hw, *q.shape[2:])
    table = self.param("relative_key", nn.initializers.zeros, shape)
    bias = relation.bias(q, table)
    self.sow("intermediates", "bias", bias)
    return self.kernel(q, k, v, bias=bias, **segments)


class Mlp(nn.Module):
  """Two linear maps with a GELU (arXiv:1606.08415) between them.

  Attributes:
    gated: the GELU is of a third map (`Dense_gate`), and multiplies the first
      (GEGLU, arXiv:2002.05202).
  """

  hidden: int
  dtype: jnp.dtype
  exact_gelu: bool = False
  dropout: float = 0.0
  gated: bool = False
  use_bias: bool = True

  @nn.compact
  def __call__(self, x, *, train: bool):
    dense = functools.partial(
      Dense, dtype=self.dtype, bias_init=_bias_init, use_bias=self.use_bias
    )
    hidden, d = (self.hidden,), x.shape[-1]
    y = dense(hidden, name="Dense_0")(x)
    gate = dense(hidden, name="Dense_gate")(x) if self.gated else y
    gate = nn.gelu(gate, approximate=not self.exact_gelu)
    y = gate * y if self.gated else gate
    y = dropout(self, self.dropout, y, train=train)
    return dense((d,), name="Dense_1")(y)


class LayerScale(nn.Module):
  """Multiplies by a learned `[d]` that starts small (arXiv:2103.17239)."""

  init: float

  @nn.compact
  def __call__(self, x):
    init = nn.initializers.constant(self.init)
    scale = self.param("scale", init, (x.shape[-1],))
    return x * _row(scale.astype(x.dtype), x)


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


class Encoder(nn.Module):
  """A stack of blocks and a final norm.

  Attributes:
    block: makes one block when called with its name.
    depth: number of blocks.
    eps: of the final norm; None: no final norm.
    drop_path: stochastic depth of the last block; it rises linearly from 0.
    scan: one traced block over stacked parameters
      (`encoderblock/...` with a leading depth axis).
    rms_norm: the final norm is RMSNorm.
    conditioned: as of a block; the final norm is shifted and scaled too.
  """

  block: Callable[..., EncoderBlock]
  depth: int
  eps: float | None
  drop_path: float = 0.0
  scan: bool = False
  rms_norm: bool = False
  conditioned: bool = False

  @nn.compact
  def __call__(self, x, context: Context | None, *, train: bool):
    rates = None
    if self.drop_path and train:
      rates = jnp.linspace(0, self.drop_path, self.depth, dtype=jnp.float32)
    if self.scan:
      x = self._scanned(x, context, rates, train)
    else:
      for i in range(self.depth):
        rate = None if rates is None else rates[i]
        x = self.block(name=f"encoderblock_{i}")(x, context, rate, train)
    if self.eps is None:
      return x
    if self.conditioned:
      parts = Modulation(2, x.dtype, name="modulation")(context)
      return modulated(x, *parts, self.eps, self.rms_norm)
    return norm(self.eps, self.rms_norm, "encoder_norm")(x)

  def _scanned(self, x, context, rates, train):
    def body(block, x, rate):
      return block(x, context, rate, train), None

    blocks = nn.scan(
      body,
      variable_axes={"params": 0, "intermediates": 0},
      split_rngs={"params": True, "dropout": True},
      length=self.depth,
    )
    return blocks(self.block(name="encoderblock"), x, rates)[0]
