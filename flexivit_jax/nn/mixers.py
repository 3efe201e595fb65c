"""What every block is told of the tokens, beside their vectors."""

from typing import NamedTuple

import jax

from flexivit_jax.nn.positions.relation import RelativeIndex, Rotation


class Context(NamedTuple):
  """Computed once, read by the attention of every block.

  Attributes:
    segments: i32 `[b or 1, l]`, which image each token belongs to, 0 for
      padding; None: one image per row and no padding.
    relation: of the tokens' places; None where they are only added.
    condition: `[b, e, d]`, what steers the blocks (`conditioning`); None where
      nothing does.
  """

  segments: jax.Array | None = None
  relation: Rotation | RelativeIndex | None = None
  condition: jax.Array | None = None
