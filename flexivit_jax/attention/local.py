"""Attention on one device: no communication."""

import dataclasses
from typing import ClassVar

from flexivit_jax.attention.distribution import FLOAT32, Held, Sent
from flexivit_jax.attention.kernel import Kernel, Partial
from flexivit_jax.devices import axes


@dataclasses.dataclass(frozen=True)
class Local:
  """The kernel itself: each device has whole rows. See `Distribution`."""

  kept: ClassVar[tuple[str, ...]] = ()

  def __call__(
    self, kernel: Kernel, q, k, v, *, q_segments=None, kv_segments=None
  ) -> Partial:
    return attend(kernel, q, k, v, q_segments, kv_segments)

  def check(
    self, *, length: int, num_heads: int, parts: int, kernel: Kernel
  ) -> None:
    if parts > 1:
      raise ValueError(
        f"the distribution local needs whole rows, but {parts} devices of the "
        "mesh's axis seq share each: take query_sharded, ring or ulysses, or "
        "seq=1"
      )

  def sent(self, activation, parts, itemsize):
    return Sent()

  def held(self, activation, parts, itemsize):
    # Gradients of queries, keys and values, summed in float32.
    return Held(0, 3 * activation * FLOAT32 / itemsize)

  def logits(self, length, num_heads, parts):
    return num_heads, length, length


def attend(kernel, q, k, v, q_segments, kv_segments) -> Partial:
  """The kernel on whole rows."""
  if kernel.partitionable or not axes.splits_rows():
    return kernel(q, k, v, q_segments=q_segments, kv_segments=kv_segments)
  # Left to the compiler, every device would get all rows.
  segments = [q_segments]
  if kv_segments is not q_segments:
    segments.append(kv_segments)

  def own(_, whole):
    (q, k, v), segments = whole
    q_segments, kv_segments = (segments * 2)[:2]
    return kernel(q, k, v, q_segments=q_segments, kv_segments=kv_segments)

  whole = (q, k, v), segments
  return axes.per_device(own, (), whole, whole_rows=True, check_vma=False)
