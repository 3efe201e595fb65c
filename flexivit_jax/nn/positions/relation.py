"""Relations of queries to keys that attention uses: rotations and biases."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Rotation(NamedTuple):
  """Turns the pairs of channels of queries and keys, token by token.

  Attributes:
    cos, sin: f32 `[b or 1, l, 2, n]`, for row and column and n frequencies; 1
      and 0 leave a token as it is.
  """

  cos: jax.Array
  sin: jax.Array

  def __call__(self, x):
    """x: `[b, l, h, 4 * n]`, in each half all firsts of pairs, then all
    seconds; the same turned, in its dtype."""
    cos, sin = self.cos[:, :, None], self.sin[:, :, None]
    *lead, n = cos.shape[-2:]
    pairs = x.reshape(*x.shape[:-1], *lead, 2, n)
    pairs = pairs.astype(jnp.promote_types(x.dtype, cos.dtype))
    first, second = pairs[..., 0, :], pairs[..., 1, :]
    turned = first * cos - second * sin, first * sin + second * cos
    return jnp.stack(turned, axis=-2).reshape(x.shape).astype(x.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RelativeIndex:
  """Which key of a table each pair of tokens multiplies the query with.

  Attributes:
    index: i32 `[b or 1, l, l]`, query by key, into the flat table; one beyond
      its end where there is nothing to add.
    table_hw: static (rows, cols) of the table: of differences.
  """

  index: jax.Array
  table_hw: tuple[int, int] = dataclasses.field(metadata={"static": True})

  def bias(self, q, table):
    """What the logits get, `[b, h, l, l]`, in float32 at least.

    q: `[b, l, h, e]`, table: `[*table_hw, h, e]`; their products are divided
    by sqrt(e), as those with the keys of the content are.
    """
    keys = table.reshape(-1, *table.shape[2:]).astype(q.dtype)
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("blhe,nhe->bhln", q, keys, preferred_element_type=dtype)
    logits = jnp.pad(logits / q.shape[-1] ** 0.5, ((0, 0),) * 3 + ((0, 1),))
    return jnp.take_along_axis(logits, self.index[:, None], axis=-1)
