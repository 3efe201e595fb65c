"""Each device attends from its own tokens to all (LSS Transformer)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flexivit_jax.attention import distribution, local
from flexivit_jax.attention import kernel as kernel_lib
from flexivit_jax.attention.kernel import Kernel, Partial
from flexivit_jax.devices import axes


@dataclasses.dataclass(frozen=True)
class QuerySharded:
  """Queries stay, keys and values are gathered (arXiv:2311.02382).

  One all-gather forward, one reduce-scatter backward. Each device sends, with
  A = b l d and P devices, in elements, for each direction:

    gather="keys_values": 2 A (P - 1) / P, keys and values in one.
    gather="activations": A (P - 1) / P: the input of both projections, which
      every device then computes for all tokens. See `from_activations`.

  Memory is O(l): all keys and values are on each device.

  Attributes:
    gather: what is gathered.
    keep: where a layer is rematerialised, keep what was gathered, O(l) for each
      layer, instead of gathering it again in the backward pass.
  """

  gather: str = "keys_values"
  keep: bool = True

  def __post_init__(self):
    if self.gather not in ("keys_values", "activations"):
      raise ValueError(
        f"gather is keys_values or activations, not {self.gather!r}"
      )

  def __call__(
    self, kernel: Kernel, q, k, v, *, q_segments=None, kv_segments=None
  ) -> Partial:
    """As in `Distribution`, for gather="keys_values"."""
    if self.gather != "keys_values" and axes.parts() > 1:
      raise ValueError(
        "QuerySharded(gather='activations') gathers what keys and values are "
        "made of: call from_activations"
      )
    if axes.parts() == 1:
      return local.attend(kernel, q, k, v, q_segments, kv_segments)

    def gathered(arrays, _, __):
      q, k, v = arrays
      # One collective for both; the gradient is one reduce-scatter.
      both = axes.gather(jnp.stack([k, v]), axis=2)
      return q, *axes.received(both)

    return self._attend(kernel, gathered, (q, k, v), q_segments, kv_segments)

  def from_activations(
    self,
    kernel: Kernel,
    q,
    y,
    parameters: Any,
    project: Callable,
    *,
    extra: Any = None,
    q_segments=None,
    kv_segments=None,
  ) -> Partial:
    """Attention with keys and values made from gathered activations.

    Args:
      q: `[b, l, h, dh]`.
      y: `[b, l, d]`, what keys and values are projected from.
      parameters: pytree, the same on all devices. Each device's gradient is of
        its own queries; `shard_map` with check_vma=True sums them, else the
        caller does.
      project: pure `(parameters, y, extra) -> (k, v)` for any number of
        tokens.
      extra: pytree of arrays `[b or 1, l, ...]` that `project` reads, as
        rotations; not differentiated if they are the same in all layers.
    """
    if axes.parts() == 1:
      k, v = project(parameters, y, extra)
      return local.attend(kernel, q, k, v, q_segments, kv_segments)

    def gathered(arrays, extra, parameters):
      q, y = arrays
      y = axes.received(axes.gather(y))
      return q, *project(parameters, y, extra)

    return self._attend(
      kernel, gathered, (q, y), q_segments, kv_segments, extra, parameters
    )

  def check(
    self, *, length: int, num_heads: int, parts: int, kernel: Kernel
  ) -> None:
    if parts == 1:
      return
    distribution.check_length(length, parts)
    if not kernel.takes_other_queries:
      raise ValueError(
        f"kernel {distribution.name_of(kernel)} attends among one set of "
        "tokens, but query_sharded from a device's own to all: take the "
        "distribution ulysses, or the kernel blockwise"
      )

  @property
  def kept(self) -> tuple[str, ...]:
    return (axes.GATHERED,) if self.keep else ()

  def _attend(
    self,
    kernel,
    gathered,
    arrays,
    q_segments,
    kv_segments,
    extra=None,
    parameters=None,
  ) -> Partial:
    """The kernel on a device's own queries and what `gathered` makes of
    (its own arrays, all of extra, parameters): (q, all k, all v)."""
    kernel_lib.check_segments(q_segments, kv_segments)
    if q_segments is kv_segments:
      # Cut from those of all tokens, which are then all that is sent.
      q_segments = None

    def own(split, whole, parameters):
      arrays, q_segments = split
      extra, kv_segments = whole
      if q_segments is None:
        q_segments = axes.own(kv_segments)
      q, k, v = gathered(arrays, extra, parameters)
      return kernel(q, k, v, q_segments=q_segments, kv_segments=kv_segments)

    split, whole = (arrays, q_segments), (extra, kv_segments)
    if axes.inside_shard_map():
      return own(split, jax.tree.map(axes.gather, whole), parameters)
    q = arrays[0]
    self.check(
      length=q.shape[1],
      num_heads=q.shape[2],
      parts=axes.parts(),
      kernel=kernel,
    )
    return axes.per_device(own, split, whole, parameters)
