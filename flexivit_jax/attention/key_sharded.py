"""Queries that every device has, to keys that devices share: pooling."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from flexivit_jax.attention.kernel import Kernel, Partial
from flexivit_jax.devices import axes


@dataclasses.dataclass(frozen=True)
class KeySharded:
  """A few queries, the same on all devices of a row, attend to its tokens.

  Left to the compiler outside a `shard_map`. Inside, each device attends to its
  own tokens and the parts are merged: two sums and a maximum of so many
  queries are sent. Not a choice of configs; see `Distribution`.
  """

  def __call__(
    self, kernel: Kernel, q, k, v, *, q_segments=None, kv_segments=None
  ) -> Partial:
    out, lse = kernel(q, k, v, q_segments=q_segments, kv_segments=kv_segments)
    if not axes.inside_shard_map():
      return Partial(out, lse)
    # A shift that leaves the result, and so the gradient, as it is.
    top = lax.pmax(jax.lax.stop_gradient(lse), axes.SEQ)
    weight = jnp.exp(lse - top)
    total = lax.psum(weight, axes.SEQ)
    merged = lax.psum(out.astype(lse.dtype) * weight[..., None], axes.SEQ)
    out = (merged / total[..., None]).astype(out.dtype)
    return Partial(out, top + jnp.log(total))
