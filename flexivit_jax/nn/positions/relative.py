"""Relative positions inside attention (ViT, appendix D.4)."""

import dataclasses

import jax.numpy as jnp

from flexivit_jax.nn.positions import learned_grid, position
from flexivit_jax.nn.positions.relation import RelativeIndex


@dataclasses.dataclass(frozen=True)
class Relative(position.Position):
  """A second key for each difference of the query's and the key's row and
  column, whose product with the query is added to the logit (the relative
  attention of the ViT paper's appendix D.4, arXiv:2010.11929, along two axes;
  arXiv:1803.02155).

  Every block has its own `relative_key` `[2 rows - 1, 2 cols - 1, h, d / h]`,
  zero at first; entry [rows - 1 + a, cols - 1 + b] is for a query a rows below
  and b columns right of its key. Differences beyond have the outermost entry.
  Pairs with a class or register token have none. The logits are made whole, and
  before that those with all the table, so only the kernel `dense` can do it.

  Attributes:
    size: (rows, cols) of the largest grid.
  """

  size: tuple[int, int]

  def __post_init__(self):
    position.check_size(self.size, learned_grid.LARGEST_GRID)

  @property
  def largest_grid(self):
    return self.size

  def relation(self, coords, *, prefix, head_width):
    del head_width
    rows, cols = (2 * n - 1 for n in self.size)
    row, col = (
      jnp.clip(p[:, :, None] - p[:, None, :], 1 - n, n - 1) + n - 1
      for p, n in zip((coords[..., 0], coords[..., 1]), self.size, strict=True)
    )
    front = ((0, 0), (prefix, 0), (prefix, 0))
    index = jnp.pad(row * cols + col, front, constant_values=rows * cols)
    return RelativeIndex(index, (rows, cols))
