"""What every block is told of the tokens, beside their vectors."""

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
  """Which entry of a table each pair of tokens reads its bias at.

  Attributes:
    index: i32 `[b or 1, l, l]`, query by key, into the flat table; one beyond
      its end where there is no bias.
    table_hw: static (rows, cols) of the table: of differences.
  """

  index: jax.Array
  table_hw: tuple[int, int] = dataclasses.field(metadata={"static": True})

  def bias(self, table):
    """`[h, *table_hw]` to the bias of the logits, `[b or 1, h, l, l]`."""
    flat = table.reshape(table.shape[0], -1)
    flat = jnp.pad(flat, ((0, 0), (0, 1)))
    return jnp.moveaxis(jnp.take(flat, self.index, axis=1, mode="clip"), 0, 1)


class Context(NamedTuple):
  """Computed once, read by the attention of every block.

  Attributes:
    segments: i32 `[b or 1, l]`, which image each token belongs to, 0 for
      padding; None: one image per row and no padding.
    relation: of the tokens' places; None where they are only added.
  """

  segments: jax.Array | None = None
  relation: Rotation | RelativeIndex | None = None
