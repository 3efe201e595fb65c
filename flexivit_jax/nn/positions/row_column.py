"""Learned tables with an entry for each row and column of patches."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from flexivit_jax.nn.positions import learned_grid, position

ROW, COL, JOINT = (f"{learned_grid.TABLE}_{x}" for x in ("row", "col", "joint"))

# Entries of a table of rows or of columns; Pix2Struct's have 4096.
LONGEST = 2**16

# How two vectors become one: standard deviations of both with which theirs is
# d**-0.5, as a learned grid's.
COMBINE = {
  "sum": lambda width: (2 * width) ** -0.5,
  "product": lambda width: width**-0.25,
  "stack": lambda width: width**-0.5,
}
READ = ("absolute", "fractional", "interpolated")


@dataclasses.dataclass(frozen=True)
class RowColumn(position.Position):
  """One table of rows and one of columns, combined.

  How they are read is the difference between

  - "absolute": entry number p for row or column p. The released Pix2Struct
    (arXiv:2210.03347: 4096 entries, "sum", first=1) and NaViT's factorised
    absolute (arXiv:2307.06304). Beyond the last entry, the last entry.
  - "fractional": at r = p / side of the image's own grid, as NaViT defines it,
    with the first entry at r = 0, the last at r = 1, linearly in between. So
    no patch leaves the table, and since p < side none quite reaches its end.
  - "interpolated": each table resized linearly to the image's own grid, with
    half-pixel centres, as `LearnedGrid` in one dimension. timm's NaFlexVit,
    pos_embed="factorized", with antialias=False.

  Attributes:
    size: (rows, cols): entries of the two tables.
    combine: "sum" or "product" of two vectors of d channels, or "stack": the
      row's d / 2 channels, then the column's.
    read: one of the above.
    first: entry of coordinate 0, of absolute ones: 1 in Pix2Struct, whose
      entry 0 is padding's.
    antialias: of interpolated ones: average where the grid is smaller than the
      table.
  """

  size: tuple[int, int]
  combine: str = "sum"
  read: str = "absolute"
  first: int = 0
  antialias: bool = True

  def __post_init__(self):
    position.check_size(self.size, LONGEST)
    for name, valid in (("combine", COMBINE), ("read", READ)):
      if getattr(self, name) not in valid:
        raise ValueError(
          f"{name} is {getattr(self, name)!r}: give one of {', '.join(valid)}"
        )
    if not 0 <= self.first < min(self.size):
      raise ValueError(
        f"first is {self.first}: give 0 to {min(self.size) - 1}, the entry "
        f"of coordinate 0 in tables of {self.size[0]} and {self.size[1]}"
      )
    if self.first and self.read != "absolute":
      raise ValueError(
        f"first is {self.first}, but {self.read} coordinates are no numbers "
        "of entries: leave it out"
      )
    if not self.antialias and self.read != "interpolated":
      raise ValueError(
        f"antialias is off, but {self.read} coordinates resize no table: leave "
        "it out"
      )

  @property
  def largest_grid(self):
    if self.read != "absolute":
      return None
    rows, cols = self.size
    return rows - self.first, cols - self.first

  def tables(self, width):
    init = nn.initializers.normal(stddev=COMBINE[self.combine](width))
    if self.combine == "stack":
      if width % 2:
        raise ValueError(
          f"row_column positions that are stacked need an even width, not "
          f"{width}"
        )
      width //= 2
    return {
      name: (init, (entries, width))
      for name, entries in zip((ROW, COL), self.size, strict=True)
    }

  def __call__(self, tables, coords, grid_hw, width):
    del width
    row, col = (
      self._read(tables[name], coords[..., i], grid_hw[..., i])
      for i, name in enumerate((ROW, COL))
    )
    if self.combine == "stack":
      return jnp.concatenate([row, col], axis=-1)
    return row + col if self.combine == "sum" else row * col

  def _read(self, table, coord, side):
    """`[n, d]` at i32 `[b or 1, l]`: `[b or 1, l, d]`."""
    if self.read == "absolute":
      return _entries(table, coord + self.first)
    if self.read == "fractional":
      place = coord.astype(jnp.float32) * (len(table) - 1) / side
      low = jnp.floor(place)
      share = (place - low)[..., None].astype(table.dtype)
      low = low.astype(jnp.int32)
      return (1 - share) * _entries(table, low) + share * _entries(
        table, low + 1
      )
    weights = learned_grid.resizing_weights(
      coord, side, len(table), self.antialias
    )
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum("bln,nd->bld", weights, table, precision=highest)


@dataclasses.dataclass(frozen=True)
class JointTable(position.Position):
  """An entry for each pair of row and column: NaViT's baseline "Pix2Struct"
  (arXiv:2307.06304), which the released Pix2Struct is not.

  Read at absolute coordinates; beyond the last row or column, that one.

  Attributes:
    size: (rows, cols) of the table.
  """

  size: tuple[int, int]

  def __post_init__(self):
    position.check_size(self.size, learned_grid.LARGEST_GRID)

  @property
  def largest_grid(self):
    return self.size

  def tables(self, width):
    init = nn.initializers.normal(stddev=width**-0.5)
    return {JOINT: (init, (*self.size, width))}

  def __call__(self, tables, coords, grid_hw, width):
    del grid_hw
    # Each alone: beyond the last column is no first column of the next row.
    row, col = (
      jnp.minimum(coords[..., i], n - 1) for i, n in enumerate(self.size)
    )
    return _entries(tables[JOINT].reshape(-1, width), row * self.size[1] + col)


def _entries(table, index):
  """A gather: a product with one-hot rows would cost l n d for each table."""
  return jnp.take(table, index, axis=0, mode="clip")
