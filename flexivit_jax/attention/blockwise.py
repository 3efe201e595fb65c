"""Attention block by block: memory grows with the length, not its square."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jax import lax

from flexivit_jax.attention import kernel
from flexivit_jax.attention.kernel import NO_KEY, Partial


@dataclasses.dataclass(frozen=True)
class Blockwise:
  """Softmax with a running maximum over blocks of keys (FlashAttention,
  arXiv:2205.14135), in XLA's operations: any platform, any length.

  Where blocks do not divide a length, the last one begins earlier and overlaps
  its neighbour; nothing is padded or copied. Blocks whose segments do not meet
  are skipped, so packed rows take as long as their images. See `Mergeable`.

  Attributes:
    block_q, block_k: queries and keys at a time, at most:
      `[b, h, block_q, block_k]` logits exist at once. On a CPU they are several
      times faster where those fit its cache.
  """

  block_q: int = 512
  block_k: int = 512

  has_lse: ClassVar[bool] = True
  partitionable: ClassVar[bool] = True
  kept: ClassVar[tuple[str, ...]] = (kernel.ATTENDED,)

  def __post_init__(self):
    for name in ("block_q", "block_k"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be positive, not {getattr(self, name)}")

  def __call__(self, q, k, v, *, q_segments=None, kv_segments=None) -> Partial:
    kernel.check_segments(q_segments, kv_segments)
    return kernel.from_passes(self, q, k, v, q_segments, kv_segments)

  def forward(self, q, k, v, q_segments, kv_segments) -> Partial:
    dtype = kernel.accumulator(q)
    queries = Blocks.of(q.shape[1], self.block_q)
    keys = Blocks.of(k.shape[1], self.block_k)
    meet = _meeting(queries, keys, q_segments, kv_segments)

    def rows(i, done: Partial) -> Partial:
      q_i = _scaled(queries.take(q, i))
      segments_i = queries.take(q_segments, i)

      def attend(j, carry):
        out, top, total = carry
        k_j, v_j = keys.take(k, j), keys.take(v, j)
        logits = kernel.product("bqhe,bkhe->bhqk", q_i, k_j, dtype)
        seen = _seen(segments_i, keys.take(kv_segments, j), keys.fresh(j))
        if seen is not None:
          logits = jnp.where(seen, logits, NO_KEY)
        new_top = jnp.maximum(top, logits.max(axis=-1, keepdims=True))
        weights = jnp.exp(logits - new_top)
        if seen is not None:
          weights = jnp.where(seen, weights, 0)
        kept = jnp.exp(top - new_top)
        out = out * kept + kernel.product(
          "bhqk,bkhe->bhqe", weights.astype(v.dtype), v_j, dtype
        )
        total = total * kept + weights.sum(axis=-1, keepdims=True)
        return out, new_top, total

      def step(j, carry):
        if meet is None:
          return attend(j, carry)
        return lax.cond(meet[i, j], attend, lambda _, carry: carry, j, carry)

      zero = jnp.zeros_like(jnp.moveaxis(q_i, 2, 1), dtype)
      column = zero[..., :1]
      out, top, total = lax.fori_loop(
        0, keys.count, step, (zero, column + NO_KEY, column)
      )
      has_key = total > 0
      total = jnp.where(has_key, total, 1)
      lse = jnp.where(has_key, top + jnp.log(total), NO_KEY)
      return Partial(
        queries.put(done.out, jnp.moveaxis(out / total, 1, 2), i),
        queries.put(done.lse, jnp.moveaxis(lse[..., 0], 1, 2), i),
      )

    zeros = jnp.zeros_like(q, dtype)
    return lax.fori_loop(0, queries.count, rows, Partial(zeros, zeros[..., 0]))

  def backward(self, q, k, v, total, d_total, q_segments, kv_segments):
    dtype = kernel.accumulator(q)
    queries = Blocks.of(q.shape[1], self.block_q)
    keys = Blocks.of(k.shape[1], self.block_k)
    meet = _meeting(queries, keys, q_segments, kv_segments)
    d_out, d_lse = d_total
    # Softmax's own term, sum_k w dw = out . d_out; lse adds its cotangent.
    row = (d_out.astype(dtype) * total.out.astype(dtype)).sum(axis=-1) - d_lse
    scale = q.shape[-1] ** -0.5

    def columns(j, carry):
      k_j, v_j = keys.take(k, j), keys.take(v, j)
      segments_j = keys.take(kv_segments, j)

      def gradients(i):
        """Of block i of the queries, and what it adds to those of k_j, v_j."""
        q_i, d_out_i = _scaled(queries.take(q, i)), queries.take(d_out, i)
        logits = kernel.product("bqhe,bkhe->bhqk", q_i, k_j, dtype)
        seen = _seen(
          queries.take(q_segments, i),
          segments_j,
          keys.fresh(j),
          queries.fresh(i),
        )
        weights = jnp.exp(logits - _column(queries.take(total.lse, i)))
        if seen is not None:
          weights = jnp.where(seen, weights, 0)
        d_v_j = kernel.product(
          "bhqk,bqhe->bkhe", weights.astype(v.dtype), d_out_i, dtype
        )
        d_logits = kernel.product("bqhe,bkhe->bhqk", d_out_i, v_j, dtype)
        d_logits = weights * (d_logits - _column(queries.take(row, i)))
        d_logits = d_logits.astype(q.dtype)
        d_k_j = kernel.product("bhqk,bqhe->bkhe", d_logits, q_i, dtype)
        d_q_i = kernel.product("bhqk,bkhe->bqhe", d_logits, k_j, dtype)
        return d_q_i * scale, d_k_j, d_v_j

      def nothing(i):
        blocks = queries.take(q, i), k_j, v_j
        return tuple(jnp.zeros_like(x, dtype) for x in blocks)

      def step(i, carry):
        d_q, d_k_j, d_v_j = carry
        if meet is None:
          adds = gradients(i)
        else:
          adds = lax.cond(meet[i, j], gradients, nothing, i)
        return queries.add(d_q, adds[0], i), d_k_j + adds[1], d_v_j + adds[2]

      d_q, d_k, d_v = carry
      zero = jnp.zeros_like(k_j, dtype)
      d_q, d_k_j, d_v_j = lax.fori_loop(
        0, queries.count, step, (d_q, zero, zero)
      )
      return d_q, keys.add(d_k, d_k_j, j), keys.add(d_v, d_v_j, j)

    zeros = [jnp.zeros_like(x, dtype) for x in (q, k, v)]
    return lax.fori_loop(0, keys.count, columns, tuple(zeros))


@dataclasses.dataclass(frozen=True)
class Blocks:
  """How `count` blocks of one size cover a length; the last may overlap."""

  length: int
  size: int
  count: int

  @classmethod
  def of(cls, length: int, at_most: int) -> "Blocks":
    # All alike in size, to leave little overlap; in eights, for the hardware.
    count = -(-length // at_most)
    size = min(-(-length // (8 * count)) * 8, at_most, length)
    return cls(length, size, -(-length // size))

  def start(self, i):
    return jnp.minimum(i * self.size, self.length - self.size)

  def fresh(self, i):
    """Which places of block i no earlier block has; None: all, always."""
    if self.length % self.size == 0:
      return None
    return self.start(i) + jnp.arange(self.size) >= i * self.size

  def take(self, x, i):
    """Block i of `[b, l, ...]`; None of None."""
    if x is None:
      return None
    return lax.dynamic_slice_in_dim(x, self.start(i), self.size, axis=1)

  def put(self, x, block, i):
    return lax.dynamic_update_slice_in_dim(x, block, self.start(i), axis=1)

  def add(self, x, block, i):
    return self.put(x, self.take(x, i) + block, i)


def _meeting(queries, keys, q_segments, kv_segments):
  """Which blocks have segments in common in some row, bool [queries, keys].

  None without segments. By the range of segments in each block, so some that
  have none may be there; few do where segments come in order.
  """
  if q_segments is None:
    return None

  def ranges(blocks, segments):
    # Padding comes last, wherever its number would be.
    order = jnp.where(segments > 0, segments, jnp.iinfo(jnp.int32).max)
    order = lax.map(lambda i: blocks.take(order, i), jnp.arange(blocks.count))
    return order.min(axis=2), order.max(axis=2)

  q_low, q_high = ranges(queries, q_segments)
  k_low, k_high = ranges(keys, kv_segments)
  # [queries, keys, b or 1]
  apart = (q_high[:, None] < k_low[None]) | (k_high[None] < q_low[:, None])
  return ~apart.all(axis=-1)


def _scaled(q):
  return q * q.shape[-1] ** -0.5


def _column(x):
  """`[b, l, h]` beside logits `[b, h, l, ...]`."""
  return jnp.moveaxis(x, 1, 2)[..., None]


def _seen(q_segments, kv_segments, fresh_keys, fresh_queries=None):
  """Which pairs count, bool `[b or 1, 1, lq, lk]`; None: all."""
  masks = []
  if q_segments is not None:
    masks.append(kernel.mask(q_segments, kv_segments)[:, None])
  if fresh_keys is not None:
    masks.append(fresh_keys[None, None, None, :])
  if fresh_queries is not None:
    masks.append(fresh_queries[None, None, :, None])
  seen = None
  for mask in masks:
    seen = mask if seen is None else seen & mask
  return seen
