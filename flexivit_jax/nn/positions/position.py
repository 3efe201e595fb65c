"""Position embeddings: pure functions of (tables, coords, grid_hw).

Each is a frozen object that names its tables and turns them, token by token,
into what is added to the patch embeddings. Grids, packs and mixtures of patch
sizes share it, since a token carries its own coordinates. Tables with an entry
for each row and column are in nn/tables.py, positions that attention uses in
nn/relations.py.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.nn.positions.relation import RelativeIndex, Rotation


class Position(Protocol):
  """How the model knows where a patch lies. What a kind does not do, it
  inherits from here: no tables, nothing added, no relation, any grid."""

  def tables(self, width: int) -> dict[str, tuple]:
    """Parameters that it reads: name to (initializer, shape).

    Raises:
      ValueError: there are none for this width.
    """
    del width
    return {}

  def __call__(
    self, tables: dict[str, jax.Array], coords, grid_hw, width: int
  ) -> jax.Array | None:
    """`[b or 1, l, width]` to add, in float32, or None for nothing.

    coords, grid_hw: i32 `[b or 1, l, 2]`, as in `Tokens`.
    """
    del tables, coords, grid_hw, width

  def of_whole(
    self, tables: dict[str, jax.Array], grid_hw: tuple[int, int]
  ) -> jax.Array | None:
    """`[1, l, width]` of a whole grid where that is a table as it is stored;
    None: it is computed token by token."""
    del tables, grid_hw

  def relation(
    self, coords, *, prefix: int, head_width: int
  ) -> Rotation | RelativeIndex | None:
    """What the attention of every block uses, or None for nothing.

    Args:
      coords: i32 `[b or 1, l, 2]`, of the patches.
      prefix: number of tokens in front of them, which have no place.
      head_width: channels of one head.

    Raises:
      ValueError: there is none for this width.
    """
    del coords, prefix, head_width

  @property
  def largest_grid(self) -> tuple[int, int] | None:
    """(rows, cols) of patches whose places are all told apart; None: any.

    Beyond it a patch has the place of the last row or column.
    """
    return None


def check_grid(position: Position, grid_hw: tuple[int, int]) -> None:
  """Refuses a grid of patches in which some would share a place.

  Raises:
    ValueError: naming the largest grid.
  """
  largest = position.largest_grid
  if largest is not None and any(n > m for n, m in zip(grid_hw, largest)):
    raise ValueError(
      f"{grid_hw[0]}x{grid_hw[1]} patches are more than the {largest[0]}x"
      f"{largest[1]} that the model has positions for: take larger patches, "
      "smaller images, or positions of another size or kind"
    )


def check_size(size: tuple[int, int], most: int) -> None:
  """Refuses a table of no rows or of very many.

  Raises:
    ValueError: naming the bounds.
  """
  if not 1 <= min(size) <= max(size) <= most:
    raise ValueError(f"size is {size} rows and cols: give 1 to {most} of each")


@dataclasses.dataclass(frozen=True)
class NoPosition(Position):
  """Adds nothing: the encoder sees a set of patches."""


@dataclasses.dataclass(frozen=True)
class OfWholeGrid(Position):
  """The same as `position`, computed once for a whole grid and then taken at
  each token's cell, whichever cells a row has.

  Token by token, interpolating a table of 32x32 for a quarter of 32x32 pixels
  makes an array of 32 numbers for each that is added. And what is summed into
  a table's gradient is first put at its place in each row, so that it is summed
  in the same order whenever it is.

  Attributes:
    grid_hw: (rows, cols) of every image's grid.
  """

  position: Position
  grid_hw: tuple[int, int]

  def tables(self, width):
    return self.position.tables(width)

  def __call__(self, tables, coords, grid_hw, width):
    del grid_hw
    whole = self.position.of_whole(tables, self.grid_hw)
    if whole is None:
      rows, cols = self.grid_hw
      cells = np.stack(np.divmod(np.arange(rows * cols), cols), axis=-1)
      cells = jnp.asarray(cells[None], jnp.int32)
      sides = jnp.broadcast_to(jnp.asarray(self.grid_hw), cells.shape)
      whole = self.position(tables, cells, sides, width)
    if whole is None:
      return None
    place = coords[..., 0] * self.grid_hw[1] + coords[..., 1]
    whole = jnp.broadcast_to(whole, (place.shape[0], *whole.shape[1:]))
    return jnp.take_along_axis(whole, place[..., None], axis=1)

  def relation(self, coords, *, prefix, head_width):
    return self.position.relation(coords, prefix=prefix, head_width=head_width)

  @property
  def largest_grid(self):
    return self.position.largest_grid
