"""Keys and values travel round the devices (ring attention)."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from flexivit_jax.attention import distribution, local
from flexivit_jax.attention import kernel as kernel_lib
from flexivit_jax.attention.distribution import Held, Sent
from flexivit_jax.attention.kernel import NO_KEY, Kernel, Mergeable, Partial
from flexivit_jax.devices import axes


@dataclasses.dataclass(frozen=True)
class Ring:
  """Blocks of keys and values pass from device to device (arXiv:2310.01889).

  With its own derivative, so memory is O(l / P): nothing that has passed is
  kept. Each device sends, with A = b l d and P devices, in elements:
  2 A (P - 1) / P forward; 2 A (P - 1) / P backward, and 2 A of gradients that
  travel home in at least float32. Sums and merges are at least float32 too.
  """

  kept: ClassVar[tuple[str, ...]] = (axes.GATHERED,)

  def __call__(
    self, kernel: Kernel, q, k, v, *, q_segments=None, kv_segments=None
  ) -> Partial:
    parts = axes.parts()
    if parts == 1:
      return local.attend(kernel, q, k, v, q_segments, kv_segments)
    kernel_lib.check_segments(q_segments, kv_segments)
    if q_segments is kv_segments:
      # Cut from those of all tokens, which are then all that is sent.
      q_segments = None

    def own(split, kv_segments):
      q, k, v, q_segments = split
      if q_segments is None:
        q_segments = axes.own(kv_segments)
      return _ring(kernel, parts, q, k, v, q_segments, kv_segments)

    split = q, k, v, q_segments
    if axes.inside_shard_map():
      return own(split, jax.tree.map(axes.gather, kv_segments))
    self.check(
      length=q.shape[1], num_heads=q.shape[2], parts=parts, kernel=kernel
    )
    return axes.per_device(own, split, kv_segments)

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

  def sent(self, activation, parts, itemsize):
    if parts == 1:
      return Sent()
    both = 2 * activation * (parts - 1) / parts
    # Their gradients, in float32, go all the way round, back to their device.
    return Sent(both, both + 2 * activation * distribution.FLOAT32 / itemsize)

  def held(self, activation, parts, itemsize):
    share = activation / parts
    # Sums and what is added to them; what comes in, is used and goes out.
    working = 6 * share * distribution.FLOAT32 / itemsize + 4 * share
    return Held(0, working, keeps_result=True)

  def logits(self, length, num_heads, parts):
    return num_heads, length // parts, length // parts


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _ring(
  kernel: Mergeable, parts: int, q, k, v, q_segments, kv_segments
) -> Partial:
  return _forward(kernel, parts, q, k, v, q_segments, kv_segments)[0]


def _forward(kernel, parts, q, k, v, q_segments, kv_segments):
  def merged(hops, total, kv):
    part = kernel.forward(q, *kv, q_segments, axes.own(kv_segments, hops))
    return kernel_lib.merge(total, part)

  def hop(hops, carry):
    total, kv = carry
    # Sent before it is used: the two can happen at the same time.
    return merged(hops, total, kv), _next(kv, parts)

  zeros = jnp.zeros_like(q, kernel_lib.accumulator(q))
  total = Partial(zeros, zeros[..., 0] + NO_KEY)
  carry = total, jnp.stack([k, v])
  total = merged(parts - 1, *lax.fori_loop(0, parts - 1, hop, carry))
  total = axes.received(Partial(total.out.astype(v.dtype), total.lse))
  return total, (q, k, v, q_segments, kv_segments, total)


def _backward(kernel, parts, saved, d_total):
  q, k, v, q_segments, kv_segments, total = saved

  def added(hops, d_q, d_kv, kv):
    d_q_part, *d_kv_part = kernel.backward(
      q, *kv, total, d_total, q_segments, axes.own(kv_segments, hops)
    )
    # The gradients of a block follow it, one hop behind, and end at home.
    return d_q + d_q_part, _next(d_kv + jnp.stack(d_kv_part), parts)

  def hop(hops, carry):
    d_q, d_kv, kv = carry
    return *added(hops, d_q, d_kv, kv), _next(kv, parts)

  kv = jnp.stack([k, v])
  d_q = jnp.zeros_like(q, kernel_lib.accumulator(q))
  carry = d_q, jnp.zeros_like(kv, d_q.dtype), kv
  carry = lax.fori_loop(0, parts - 1, hop, carry)
  d_q, (d_k, d_v) = added(parts - 1, *carry)
  gradients = (g.astype(x.dtype) for g, x in zip((d_q, d_k, d_v), (q, k, v)))
  return *gradients, None, None


_ring.defvjp(_forward, _backward)


def _next(kv, parts: int):
  """Keys and values are one array, so one message, to the next device."""
  ring = [(i, (i + 1) % parts) for i in range(parts)]
  return lax.ppermute(kv, axes.SEQ, ring)
