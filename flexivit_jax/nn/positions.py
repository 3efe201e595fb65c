"""Position embeddings: pure functions of (tables, coords, grid_hw).

Each is a frozen object that names its tables and turns them, token by token,
into what is added to the patch embeddings. Grids, packs and mixtures of patch
sizes share it, since a token carries its own coordinates.
"""

import dataclasses
from typing import Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from flexivit_jax.core import resize

# The parameter that most tables live in, as in big_vision's checkpoints.
TABLE = "pos_embedding"
ROWS, COLS = f"{TABLE}_row", f"{TABLE}_col"

# Rows or columns of a learned table; a million cells in a square.
LARGEST_GRID = 1024


class Position(Protocol):
  """An additive position embedding."""

  def tables(self, width: int) -> dict[str, tuple]:
    """Parameters it needs: name to (initializer, shape)."""

  def __call__(
    self, tables: dict[str, jax.Array], coords, grid_hw, width: int
  ) -> jax.Array | None:
    """`[b or 1, l, width]` to add, in float32, or None for nothing.

    coords, grid_hw: i32 `[b or 1, l, 2]`, as in `Tokens`.
    """


@dataclasses.dataclass(frozen=True)
class NoPosition:
  """Adds nothing: the encoder sees a set of patches."""

  def tables(self, width):
    del width
    return {}

  def __call__(self, tables, coords, grid_hw, width):
    del tables, coords, grid_hw, width


@dataclasses.dataclass(frozen=True)
class LearnedGrid:
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
    if not 1 <= min(self.size) <= max(self.size) <= LARGEST_GRID:
      raise ValueError(
        f"size is {self.size} rows and cols: give 1 to {LARGEST_GRID} of each"
      )

  def tables(self, width):
    init = nn.initializers.normal(stddev=width**-0.5)
    return {TABLE: (init, (1, self.size[0] * self.size[1], width))}

  def __call__(self, tables, coords, grid_hw, width):
    table = tables[TABLE].reshape(*self.size, width)
    rows, cols = (
      self._weights(coords[..., i], grid_hw[..., i], self.size[i])
      for i in (0, 1)
    )
    highest = jax.lax.Precision.HIGHEST
    # Rows first: [l, r] x [r, c, d] is the smaller intermediate than
    # weights over all r * c cells of every token.
    partial = jnp.einsum("blr,rcd->blcd", rows, table, precision=highest)
    return jnp.einsum("blc,blcd->bld", cols, partial, precision=highest)

  def _weights(self, coord, side, old):
    ratio = old / side.astype(jnp.float32)
    centres = (coord.astype(jnp.float32) + 0.5) * ratio - 0.5
    radius = jnp.maximum(1, ratio) if self.antialias else jnp.ones_like(ratio)
    return resize.triangle_weights(centres, old, radius, jnp)


@dataclasses.dataclass(frozen=True)
class RowColumn:
  """One table for rows and one for columns; a patch gets the sum of its two.

  Attributes:
    size: (rows, cols) of the tables.
    combine: "sum".
    read: "absolute": entry coord + first, as the released Pix2Struct
      (arXiv:2210.03347) has it, NaN beyond the table; "interpolated": the
      table resized linearly, without antialias, to the image's own grid, as
      in timm's NaFlexVit.
    first: entry of the first row and column. Pix2Struct's is 1; its entry 0
      is for padding.
  """

  size: tuple[int, int]
  combine: str = "sum"
  read: str = "absolute"
  first: int = 0

  def __post_init__(self):
    if not 1 <= min(self.size) <= max(self.size):
      raise ValueError(f"size is {self.size} rows and cols: give at least 1")
    if self.combine != "sum":
      raise ValueError(f"combine is {self.combine!r}: give 'sum'")
    if self.read not in ("absolute", "interpolated"):
      raise ValueError(
        f"read is {self.read!r}: give 'absolute' or 'interpolated'"
      )

  def tables(self, width):
    init = nn.initializers.normal(stddev=width**-0.5)
    rows, cols = self.size
    return {ROWS: (init, (rows, width)), COLS: (init, (cols, width))}

  def __call__(self, tables, coords, grid_hw, width):
    del width
    rows, cols = (
      self._entries(tables[name], coords[..., i], grid_hw[..., i])
      for i, name in enumerate((ROWS, COLS))
    )
    return rows + cols

  def _entries(self, table, coord, side):
    if self.read == "absolute":
      return jnp.take(
        jnp.asarray(table), coord + self.first, axis=0, mode="fill"
      )
    old = len(table)
    ratio = old / side.astype(jnp.float32)
    centres = (coord.astype(jnp.float32) + 0.5) * ratio - 0.5
    weights = resize.triangle_weights(centres, old, 1, jnp)
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum("blr,rd->bld", weights, table, precision=highest)


@dataclasses.dataclass(frozen=True)
class SinCos2D:
  """Fixed sines and cosines of column and row, as in MoCo v3
  (arXiv:2104.02057): [sin x w, cos x w, sin y w, cos y w], any grid.

  Attributes:
    temperature: the longest wavelength is 2 pi times this, in patches.
  """

  temperature: float = 10_000.0

  def __post_init__(self):
    if not self.temperature >= 1:
      raise ValueError(f"temperature is {self.temperature}: give at least 1")

  def tables(self, width):
    if width % 4 or width < 8:
      raise ValueError(
        f"sincos2d positions need a width that is a multiple of 4 and at "
        f"least 8, not {width}"
      )
    return {}

  def __call__(self, tables, coords, grid_hw, width):
    del tables, grid_hw
    n = width // 4
    omega = self.temperature ** -(jnp.arange(n, dtype=jnp.float32) / (n - 1))
    angles = coords.astype(jnp.float32)[..., None] * omega.reshape(1, 1, 1, n)
    y, x = angles[:, :, 0], angles[:, :, 1]
    parts = [jnp.sin(x), jnp.cos(x), jnp.sin(y), jnp.cos(y)]
    return jnp.concatenate(parts, axis=-1)
