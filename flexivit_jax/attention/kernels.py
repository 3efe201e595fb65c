"""Softmax attention within segments: `kernel(q, k, v, ...) -> Partial`."""

import functools
import math
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import export

# log of "no key": finite, since merging two -inf gives NaN.
NO_KEY = -1e30

# On a CPU, logits of all heads that outgrow the cache make softmax several
# times slower, so heads go one by one from this size on. Measured with
# benchmarks/model_speed.py: break-even lies between 1 and 10 MiB.
CPU_CACHE_BYTES = 4 * 2**20


class Partial(NamedTuple):
  """Attention over one block of keys; partials over blocks can be merged.

  Attributes:
    out: `[b, lq, h, dh]`, in the dtype of the values.
    lse: `[b, lq, h]`, at least float32: log of the sum of exponentials.
  """

  out: jax.Array
  lse: jax.Array


class Kernel(Protocol):
  """Softmax attention of queries to the keys of their own segment.

  Args:
    q: `[b, lq, h, dh]`; logits are q . k / sqrt(dh).
    k, v: `[b, lk, h, dh]`.
    q_segments, kv_segments: i32 `[b or 1, lq]` and `[b or 1, lk]`, both or
      neither. Equal numbers attend, padding (0) to padding, so on a whole row
      no query is without a key.

  Returns:
    Partial, differentiable in both fields. A query with no key in this block
    has out = 0 and lse = -1e30, never NaN. Products accumulate in float32.
  """

  def __call__(
    self, q, k, v, *, q_segments=None, kv_segments=None
  ) -> Partial: ...


def dense(q, k, v, *, q_segments=None, kv_segments=None, bias=None) -> Partial:
  """Every query against every key, `[lq, lk]` logits at once for each head.

  Forward it saves what it returns, backward it computes the logits again: one
  more product instead of `[b, h, lq, lk]` numbers kept for each layer.
  See `Kernel`; this one alone has a bias.

  Args:
    bias: `[b or 1, h, lq, lk]`, added to the logits; differentiable. It is
      kept for the backward pass.
  """
  if (q_segments is None) != (kv_segments is None):
    raise ValueError("give q_segments and kv_segments, or neither")
  if q_segments is None:
    mask = None
  else:
    mask = q_segments[:, :, None] == kv_segments[:, None, :]
  if bias is None:
    return Partial(*_dense(q, k, v, mask))
  # Heads on the third axis, as those of all others.
  return Partial(*_dense(q, k, v, mask, jnp.moveaxis(bias, 1, 2)))


@jax.custom_vjp
def _dense(q, k, v, mask, *bias):
  return _dense_forward(q, k, v, mask, *bias)[0]


def _dense_forward(q, k, v, mask, *bias):
  f = functools.partial(_head_forward, mask=mask)
  out, lse = _over_heads(f, q, k, v, *bias)
  return (out, lse), (q, k, v, mask, bias, out, lse)


def _dense_backward(saved, cotangents):
  q, k, v, mask, bias, out, lse = saved
  d_out, d_lse = cotangents
  f = functools.partial(_head_backward, mask=mask)
  d_q, d_k, d_v, *d_bias = _over_heads(
    f, q, k, v, out, lse, d_out, d_lse, *bias
  )
  return d_q, d_k, d_v, None, *d_bias


_dense.defvjp(_dense_forward, _dense_backward)


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
  out = _product("bqk,bke->bqe", weights.astype(v.dtype), v, logits.dtype)
  if mask is None:
    lse = top + jnp.log(total)
  else:
    has_key = total > 0
    total = jnp.where(has_key, total, 1)
    lse = jnp.where(has_key, top + jnp.log(total), NO_KEY)
  return (out / total).astype(v.dtype), lse[..., 0]


def _head_backward(q, k, v, out, lse, d_out, d_lse, *bias, mask):
  logits = _logits(q, k, mask, *bias)
  dtype = logits.dtype
  weights = jnp.exp(logits - lse[..., None])
  if mask is not None:
    weights = jnp.where(mask, weights, 0)
  d_v = _product("bqk,bqe->bke", weights.astype(v.dtype), d_out, dtype)
  d_weights = _product("bqe,bke->bqk", d_out, v, dtype)
  # Softmax's own term, sum_k w dw = out . d_out; lse adds its cotangent.
  row = (d_out.astype(dtype) * out.astype(dtype)).sum(axis=-1) - d_lse
  d_logits = weights * (d_weights - row[..., None])
  d_bias = [_like(x, d_logits) for x in bias]
  d_logits = d_logits.astype(q.dtype)
  scale = q.shape[-1] ** -0.5
  d_q = _product("bqk,bke->bqe", d_logits, k, dtype) * scale
  d_k = _product("bqk,bqe->bke", d_logits, q, dtype) * scale
  return (
    d_q.astype(q.dtype),
    d_k.astype(k.dtype),
    d_v.astype(v.dtype),
    *d_bias,
  )


def _like(bias, d_logits):
  """The gradient of a bias that rows may share."""
  if bias.shape[0] == 1:
    d_logits = d_logits.sum(axis=0, keepdims=True)
  return d_logits.astype(bias.dtype)


def _logits(q, k, mask, bias=None):
  dtype = jnp.promote_types(q.dtype, jnp.float32)
  logits = _product("bqe,bke->bqk", q * q.shape[-1] ** -0.5, k, dtype)
  if bias is not None:
    logits = logits + bias.astype(dtype)
  return logits if mask is None else jnp.where(mask, logits, NO_KEY)


def _product(subscripts, x, y, dtype):
  return jnp.einsum(subscripts, x, y, preferred_element_type=dtype)
