"""Keys and values travel round the devices (ring attention)."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from flexivit_jax.attention import axes, distribution, kernels, local
from flexivit_jax.attention.kernels import NO_KEY, Kernel, Mergeable, Partial


@dataclasses.dataclass(frozen=True)
class Ring:
  """Blocks of keys and values pass from device to device (arXiv:2310.01889).

  With its own derivative, so memory is O(l / P): nothing that has passed is
  kept. Each device sends, with A = b l d and P devices, in elements:
  2 A (P - 1) / P forward; 2 A (P - 1) / P backward, and 2 A of gradients that
  travel home in at least float32. Sums and merges are at least float32 too.
  """

  kept: ClassVar[None] = None

  def __call__(
    self, kernel: Kernel, q, k, v, *, q_segments=None, kv_segments=None
  ) -> Partial:
    parts = axes.parts()
    if parts == 1:
      return local.attend(kernel, q, k, v, q_segments, kv_segments)
    kernels.check_segments(q_segments, kv_segments)
    if axes.inside_shard_map():
      return _ring(kernel, parts, q, k, v, q_segments, kv_segments)
    self.check(
      length=q.shape[1], num_heads=q.shape[2], parts=parts, kernel=kernel
    )

    def own(split, _, __):
      return _ring(kernel, parts, *split)

    return axes.per_device(own, (q, k, v, q_segments, kv_segments), None)

  def check(
    self, *, length: int, num_heads: int, parts: int, kernel: Kernel
  ) -> None:
    if parts == 1:
      return
    distribution.check_length(length, parts)
    if not kernel.has_lse:
      raise ValueError(
        "the distribution ring merges by the lse, which kernel "
        f"{distribution.name_of(kernel)} does not give: take the kernel "
        "blockwise, or the distribution ulysses"
      )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _ring(
  kernel: Mergeable, parts: int, q, k, v, q_segments, kv_segments
) -> Partial:
  return _forward(kernel, parts, q, k, v, q_segments, kv_segments)[0]


def _forward(kernel, parts, q, k, v, q_segments, kv_segments):
  def merged(total, block):
    (k, v), kv_segments = block
    part = kernel.forward(q, k, v, q_segments, kv_segments)
    return kernels.merge(total, part)

  def hop(_, carry):
    total, block = carry
    # Sent before it is used: the two can happen at the same time.
    return merged(total, block), _next(block, parts)

  zeros = jnp.zeros_like(q, kernels.accumulator(q))
  total = Partial(zeros, zeros[..., 0] + NO_KEY)
  block = jnp.stack([k, v]), kv_segments
  total, block = lax.fori_loop(0, parts - 1, hop, (total, block))
  total = merged(total, block)
  total = axes.received(Partial(total.out.astype(v.dtype), total.lse))
  return total, (q, k, v, q_segments, kv_segments, total)


def _backward(kernel, parts, saved, d_total):
  q, k, v, q_segments, kv_segments, total = saved

  def added(d_q, d_kv, block):
    (k, v), kv_segments = block
    d_q_part, *d_kv_part = kernel.backward(
      q, k, v, total, d_total, q_segments, kv_segments
    )
    # The gradients of a block follow it, one hop behind, and end at home.
    return d_q + d_q_part, _next(d_kv + jnp.stack(d_kv_part), parts)

  def hop(_, carry):
    d_q, d_kv, block = carry
    return *added(d_q, d_kv, block), _next(block, parts)

  d_q = jnp.zeros_like(q, kernels.accumulator(q))
  block = jnp.stack([k, v]), kv_segments
  d_kv = jnp.zeros_like(block[0], d_q.dtype)
  d_q, d_kv, block = lax.fori_loop(0, parts - 1, hop, (d_q, d_kv, block))
  d_q, (d_k, d_v) = added(d_q, d_kv, block)
  gradients = (g.astype(x.dtype) for g, x in zip((d_q, d_k, d_v), (q, k, v)))
  return *gradients, None, None


_ring.defvjp(_forward, _backward)


def _next(block, parts: int):
  """Everything one device on; keys and values are one array, so one message."""
  ring = [(i, (i + 1) % parts) for i in range(parts)]
  return jax.tree.map(lambda x: lax.ppermute(x, axes.SEQ, ring), block)
