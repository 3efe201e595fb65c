"""Positions that attention itself uses, instead of adding them to patches."""

import dataclasses

import jax.numpy as jnp

from flexivit_jax.nn import positions
from flexivit_jax.nn.context import RelativeIndex, Rotation


@dataclasses.dataclass(frozen=True)
class Rotary(positions.Position):
  """Queries and keys turned by angles that grow with row and column, so that
  logits depend on differences of coordinates alone (RoFormer,
  arXiv:2104.09864; along two axes as in arXiv:2403.13298).

  Of a head's 4 n channels the first half is turned by the row and the second
  by the column. In each half channels i and n + i are a pair, turned by
  p temperature^(-i / n) for i = 0..n-1. Class and register tokens are not
  turned. No parameters; coordinates are absolute and go on beyond any grid.

  Attributes:
    temperature: 100 in arXiv:2403.13298; texts, which are longer, use 10,000.
  """

  temperature: float = 100.0

  def __post_init__(self):
    positions.check_temperature(self.temperature)

  def relation(self, coords, *, prefix, head_width):
    if head_width % 4:
      raise ValueError(
        "rotary positions need heads whose width is a multiple of 4, not "
        f"{head_width}: take another width or num_heads"
      )
    n = head_width // 4
    omega = self.temperature ** -(jnp.arange(n, dtype=jnp.float32) / n)
    angles = coords.astype(jnp.float32)[..., None] * omega.reshape(1, 1, 1, n)
    front = ((0, 0), (prefix, 0), (0, 0), (0, 0))
    return Rotation(
      jnp.pad(jnp.cos(angles), front, constant_values=1),
      jnp.pad(jnp.sin(angles), front),
    )


@dataclasses.dataclass(frozen=True)
class Relative(positions.Position):
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
    positions.check_size(self.size, positions.LARGEST_GRID)

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
