"""The plain kernel: every query against every key at once."""

import dataclasses
import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import export

from flexivit_jax.attention import kernel
from flexivit_jax.attention.kernel import NO_KEY, Partial

# On a CPU, logits of all heads that outgrow the cache make softmax several
# times slower, so heads go one by one from this size on. Measured with
# benchmarks/model_speed.py: break-even lies between 1 and 10 MiB.
CPU_CACHE_BYTES = 4 * 2**20


@dataclasses.dataclass(frozen=True)
class Dense:
  """Every query against every key, `[lq, lk]` logits at once for each head.

  Forward it saves what it returns, backward it computes the logits again: one
  more product instead of `[b, h, lq, lk]` numbers kept for each layer.
  See `Kernel`; this one alone has a bias.
  """

  has_lse: ClassVar[bool] = True
  partitionable: ClassVar[bool] = True
  kept: ClassVar[tuple[str, ...]] = ()

  def __call__(
    self, q, k, v, *, q_segments=None, kv_segments=None, bias=None
  ) -> Partial:
    """As in `Kernel`.

    Args:
      bias: `[b or 1, h, lq, lk]`, added to the logits; differentiable. It is
        kept for the backward pass.
    """
    mask = kernel.mask(q_segments, kv_segments)
    if bias is None:
      return Partial(*_dense(q, k, v, mask))
    # Heads on the third axis, as those of all others.
    return Partial(*_dense(q, k, v, mask, jnp.moveaxis(bias, 1, 2)))

  def forward(self, q, k, v, q_segments, kv_segments) -> Partial:
    mask = kernel.mask(q_segments, kv_segments)
    return Partial(*_forward(q, k, v, mask))

  def backward(self, q, k, v, total, d_total, q_segments, kv_segments):
    mask = kernel.mask(q_segments, kv_segments)
    return _backward(q, k, v, mask, total, d_total)


@jax.custom_vjp
def _dense(q, k, v, mask, *bias):
  return _dense_forward(q, k, v, mask, *bias)[0]


def _dense_forward(q, k, v, mask, *bias):
  out, lse = _forward(q, k, v, mask, *bias)
  out, lse = kernel.attended(Partial(out.astype(v.dtype), lse))
  return (out, lse), (q, k, v, mask, bias, out, lse)


def _dense_backward(saved, cotangents):
  q, k, v, mask, bias, out, lse = saved
  d_q, d_k, d_v, *d_bias = _backward(
    q, k, v, mask, (out, lse), cotangents, *bias
  )
  return (
    d_q.astype(q.dtype),
    d_k.astype(k.dtype),
    d_v.astype(v.dtype),
    None,
    *d_bias,
  )


_dense.defvjp(_dense_forward, _dense_backward)


def _forward(q, k, v, mask, *bias):
  f = functools.partial(_head_forward, mask=mask)
  return _over_heads(f, q, k, v, *bias)


def _backward(q, k, v, mask, total, d_total, *bias):
  f = functools.partial(_head_backward, mask=mask)
  return _over_heads(f, q, k, v, *total, *d_total, *bias)


def _over_heads(f, *args):
  """f on each head of `[b, l, h, ...]` arguments: at once, or one by one."""
  args = [jnp.moveaxis(x, 2, 0) for x in args]
  q, k = args[:2]
  shape = (*q.shape[:3], k.shape[2])

  def together(*args):
    return jax.vmap(f)(*args)

  def one_by_one(*args):
    return jax.lax.map(lambda args: f(*args), args)

  def as_it_fits(*args):
    # Of float32: the product may leave int32.
    sides = jnp.stack([jnp.asarray(n, jnp.float32) for n in shape])
    fits = 4 * sides.prod() < CPU_CACHE_BYTES
    return jax.lax.cond(fits, together, one_by_one, *args)

  symbolic = any(map(export.is_symbolic_dim, shape))
  if not symbolic and 4 * math.prod(shape) < CPU_CACHE_BYTES:
    outputs = together(*args)
  else:
    # Exported for any batch, compiled for one: XLA then drops a branch.
    on_cpu = as_it_fits if symbolic else one_by_one
    outputs = jax.lax.platform_dependent(*args, cpu=on_cpu, default=together)
  return tuple(jnp.moveaxis(x, 0, 2) for x in outputs)


def _head_forward(q, k, v, *bias, mask):
  logits = _logits(q, k, mask, *bias)
  top = logits.max(axis=-1, keepdims=True)
  weights = jnp.exp(logits - top)
  if mask is not None:
    weights = jnp.where(mask, weights, 0)
  total = weights.sum(axis=-1, keepdims=True)
  out = kernel.product("bqk,bke->bqe", weights.astype(v.dtype), v, logits.dtype)
  if mask is None:
    lse = top + jnp.log(total)
  else:
    has_key = total > 0
    total = jnp.where(has_key, total, 1)
    lse = jnp.where(has_key, top + jnp.log(total), NO_KEY)
  return out / total, lse[..., 0]


def _head_backward(q, k, v, out, lse, d_out, d_lse, *bias, mask):
  logits = _logits(q, k, mask, *bias)
  dtype = logits.dtype
  weights = jnp.exp(logits - lse[..., None])
  if mask is not None:
    weights = jnp.where(mask, weights, 0)
  d_v = kernel.product("bqk,bqe->bke", weights.astype(v.dtype), d_out, dtype)
  d_weights = kernel.product("bqe,bke->bqk", d_out, v, dtype)
  # Softmax's own term, sum_k w dw = out . d_out; lse adds its cotangent.
  row = (d_out.astype(dtype) * out.astype(dtype)).sum(axis=-1) - d_lse
  d_logits = weights * (d_weights - row[..., None])
  d_bias = [_like(x, d_logits) for x in bias]
  d_logits = d_logits.astype(q.dtype)
  scale = q.shape[-1] ** -0.5
  d_q = kernel.product("bqk,bke->bqe", d_logits, k, dtype) * scale
  d_k = kernel.product("bqk,bqe->bke", d_logits, q, dtype) * scale
  return d_q, d_k, d_v, *d_bias


def _like(bias, d_logits):
  """The gradient of a bias that rows may share."""
  if bias.shape[0] == 1:
    d_logits = d_logits.sum(axis=0, keepdims=True)
  return d_logits.astype(bias.dtype)


def _logits(q, k, mask, bias=None):
  dtype = kernel.accumulator(q)
  logits = kernel.product("bqe,bke->bqk", q * q.shape[-1] ** -0.5, k, dtype)
  if bias is not None:
    logits = logits + bias.astype(dtype)
  return logits if mask is None else jnp.where(mask, logits, NO_KEY)
