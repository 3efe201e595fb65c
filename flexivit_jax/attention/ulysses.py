"""Devices swap tokens for heads, attend, and swap back (DeepSpeed-Ulysses)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from flexivit_jax.attention import distribution, local
from flexivit_jax.attention import kernel as kernel_lib
from flexivit_jax.attention.distribution import Held, Sent
from flexivit_jax.attention.kernel import Kernel, Partial
from flexivit_jax.devices import axes


@dataclasses.dataclass(frozen=True)
class Ulysses:
  """Each device attends among all tokens, in its share of the heads
  (arXiv:2309.14509).

  One all-to-all of queries, keys and values together and one of the output,
  and the same backward: each device sends 4 A (P - 1) / P^2 elements in each
  direction, with A = b l d and P devices, which must divide the heads. Any
  kernel serves. The lse stays with its head's device: None.
  """

  kept: ClassVar[tuple[str, ...]] = (axes.GATHERED,)

  def __call__(
    self, kernel: Kernel, q, k, v, *, q_segments=None, kv_segments=None
  ) -> Partial:
    if axes.parts() == 1:
      return local.attend(kernel, q, k, v, q_segments, kv_segments)
    kernel_lib.check_segments(q_segments, kv_segments)
    self.check(
      length=q.shape[1] * (axes.parts() if axes.inside_shard_map() else 1),
      num_heads=q.shape[2],
      parts=axes.parts(),
      kernel=kernel,
    )
    # One array where the caller has one: kernels may ask for that.
    segments = [q_segments]
    if kv_segments is not q_segments:
      segments.append(kv_segments)

    def own(split, segments):
      q_segments, kv_segments = (segments * 2)[:2]
      # Heads over devices, tokens together: [3, b, l, h / P, dh].
      q, k, v = axes.received(
        lax.all_to_all(
          jnp.stack(split), axes.SEQ, split_axis=3, concat_axis=2, tiled=True
        )
      )
      out = kernel(q, k, v, q_segments=q_segments, kv_segments=kv_segments).out
      out = lax.all_to_all(
        out, axes.SEQ, split_axis=1, concat_axis=2, tiled=True
      )
      return Partial(axes.received(out), None)

    if axes.inside_shard_map():
      return own((q, k, v), jax.tree.map(axes.gather, segments))
    return axes.per_device(
      own, (q, k, v), segments, check_vma=kernel.partitionable
    )

  def check(
    self, *, length: int, num_heads: int, parts: int, kernel: Kernel
  ) -> None:
    if parts == 1:
      return
    distribution.check_length(length, parts)
    if num_heads % parts:
      works = [n for n in range(1, num_heads + 1) if num_heads % n == 0]
      raise ValueError(
        f"{num_heads} heads do not divide over the {parts} devices of the "
        "mesh's axis seq, as the distribution ulysses needs: take "
        f"{' or '.join(map(str, works))} devices, or the distribution "
        "query_sharded or ring"
      )

  def sent(self, activation, parts, itemsize):
    four = 4 * activation * (parts - 1) / parts**2
    return Sent(four, four)

  def held(self, activation, parts, itemsize):
    share = activation / parts
    # The output as the heads made it, and as the projection reads it.
    working = 3 * share * distribution.FLOAT32 / itemsize + 4 * share
    return Held(share, working, 4 * share)

  def logits(self, length, num_heads, parts):
    return num_heads // parts, length, length
