"""Multihead attention of a block: projections, relation, kernel."""

import flax.linen as nn
import jax.numpy as jnp

from flexivit_jax.attention import dense, local
from flexivit_jax.attention.distribution import Distribution
from flexivit_jax.attention.kernel import Kernel
from flexivit_jax.nn.linear import Dense
from flexivit_jax.nn.norms import norm
from flexivit_jax.nn.positions.relation import RelativeIndex, Rotation


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
