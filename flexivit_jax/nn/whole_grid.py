"""Positions of some cells of a grid that all images have."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from flexivit_jax.nn.positions import Position


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
