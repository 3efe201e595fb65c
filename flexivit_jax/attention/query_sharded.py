"""Each device attends from its own tokens to all (LSS Transformer)."""

import dataclasses

import jax.numpy as jnp

from flexivit_jax.attention import distribution, local
from flexivit_jax.attention import kernel as kernel_lib
from flexivit_jax.attention.distribution import Held, Sent
from flexivit_jax.attention.kernel import Kernel, Partial
from flexivit_jax.devices import axes


@dataclasses.dataclass(frozen=True)
class QuerySharded:
  """Queries stay, keys and values are gathered (arXiv:2311.02382).

  One all-gather forward, one reduce-scatter backward. Each device sends, with
  A = b l d and P devices, 2 A (P - 1) / P elements for each direction: keys and
  values in one.

  Memory is O(l): all keys and values are on each device.

  Attributes:
    keep: where a layer is rematerialised, keep what was gathered, O(l) for each
      layer, instead of gathering it again in the backward pass.
  """

  keep: bool = True

  def __call__(
    self, kernel: Kernel, q, k, v, *, q_segments=None, kv_segments=None
  ) -> Partial:
    """As in `Distribution`."""
    if axes.parts() == 1:
      return local.attend(kernel, q, k, v, q_segments, kv_segments)

    kernel_lib.check_segments(q_segments, kv_segments)
    if q_segments is kv_segments:
      # Cut from those of all tokens, which are then all that is sent.
      q_segments = None

    def own(split, kv_segments):
      q, k, v, q_segments = split
      if q_segments is None:
        q_segments = axes.own(kv_segments)
      # One collective for both; the gradient is one reduce-scatter.
      k, v = axes.received(axes.gather(jnp.stack([k, v]), axis=2))
      return kernel(q, k, v, q_segments=q_segments, kv_segments=kv_segments)

    split = (q, k, v, q_segments)
    if axes.inside_shard_map():
      gathered = None if kv_segments is None else axes.gather(kv_segments)
      return own(split, gathered)
    self.check(
      length=q.shape[1],
      num_heads=q.shape[2],
      parts=axes.parts(),
      kernel=kernel,
    )
    return axes.per_device(
      own, split, kv_segments, check_vma=kernel.partitionable
    )

  def check(
    self, *, length: int, num_heads: int, parts: int, kernel: Kernel
  ) -> None:
    if parts > 1:
      distribution.check_length(length, parts)

  @property
  def kept(self) -> tuple[str, ...]:
    return (axes.GATHERED,) if self.keep else ()

  def sent(self, activation, parts, itemsize):
    both = 2 * activation * (parts - 1) / parts
    return Sent(both, both, 0 if self.keep else both)

  def held(self, activation, parts, itemsize):
    # Keys and values of whole rows are kept in the place of the device's own.
    sums = 2 * activation * distribution.FLOAT32 / itemsize
    kept = 2 * activation * (parts - 1) / parts
    under_remat = 2 * activation if self.keep else 0
    return Held(kept, sums + 2 * activation, under_remat)

  def logits(self, length, num_heads, parts):
    return num_heads, length // parts, length
