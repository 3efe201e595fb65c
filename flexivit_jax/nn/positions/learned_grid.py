"""Learned position tables on a grid, resized to other grids."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from flexivit_jax.core import resize
from flexivit_jax.nn.positions.position import Position, check_size

# The parameter that most tables live in, as in big_vision's checkpoints.
TABLE = "pos_embedding"


# Rows or columns of a learned table; a million cells in a square.
LARGEST_GRID = 1024


@dataclasses.dataclass(frozen=True)
class LearnedGrid(Position):
  """A learned table, interpolated bilinearly to each image's own grid.

  With the grid of the images as its size it is ViT's learned 1-D embedding
  (arXiv:2010.11929); FlexiViT (arXiv:2212.08013) stores 7x7 and interpolates.
  Equal to `jax.image.resize(table, grid, "linear")` read at the token.

  Attributes:
    size: (rows, cols) of the table.
    antialias: average where the grid is smaller than the table, as the
      published FlexiViT does for positions (not for the patch embedding).
  """

  size: tuple[int, int]
  antialias: bool = True

  def __post_init__(self):
    check_size(self.size, LARGEST_GRID)

  def tables(self, width):
    init = nn.initializers.normal(stddev=width**-0.5)
    return {TABLE: (init, (1, self.size[0] * self.size[1], width))}

  def of_whole(self, tables, grid_hw):
    # Not only cheaper: tokens and table may lie on many devices, by place.
    return tables[TABLE] if grid_hw == self.size else None

  def __call__(self, tables, coords, grid_hw, width):
    table = tables[TABLE].reshape(*self.size, width)
    rows, cols = (
      resizing_weights(
        coords[..., i], grid_hw[..., i], self.size[i], self.antialias
      )
      for i in (0, 1)
    )
    highest = jax.lax.Precision.HIGHEST
    # Rows first: [l, r] x [r, c, d] is the smaller intermediate than
    # weights over all r * c cells of every token.
    partial = jnp.einsum("blr,rcd->blcd", rows, table, precision=highest)
    return jnp.einsum("blc,blcd->bld", cols, partial, precision=highest)


def resizing_weights(coord, side, old: int, antialias: bool):
  """Weights that read one axis of a table as if it were resized to the grid.

  Half-pixel centres, as `jax.image.resize(..., "linear")`.

  Args:
    coord, side: i32 `[b or 1, l]`, place and number of places on the axis.
    old: entries of the table.

  Returns:
    f32 `[b or 1, l, old]`.
  """
  ratio = old / side.astype(jnp.float32)
  centres = (coord.astype(jnp.float32) + 0.5) * ratio - 0.5
  radius = jnp.maximum(1, ratio) if antialias else jnp.ones_like(ratio)
  return resize.triangle_weights(centres, old, radius, jnp)
