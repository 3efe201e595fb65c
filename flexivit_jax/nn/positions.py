"""Position embeddings: pure functions of (tables, coords, grid_hw).

Each is a frozen object that names its tables and turns them, token by token,
into what is added to the patch embeddings. Grids, packs and mixtures of patch
sizes share it, since a token carries its own coordinates. Tables with an entry
for each row and column are in nn/tables.py, positions that attention uses in
nn/relations.py.
"""

import dataclasses
from typing import Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from flexivit_jax.core import resize
from flexivit_jax.nn.context import RelativeIndex, Rotation

# The parameter that most tables live in, as in big_vision's checkpoints.
TABLE = "pos_embedding"
FOURIER = "pos_embedding_fourier/kernel"

# Rows or columns of a learned table; a million cells in a square.
LARGEST_GRID = 1024


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


def check_temperature(temperature: float) -> None:
  """Refuses what would not lengthen the waves.

  Raises:
    ValueError: it is below 1.
  """
  if not temperature >= 1:
    raise ValueError(f"temperature is {temperature}: give at least 1")


@dataclasses.dataclass(frozen=True)
class NoPosition(Position):
  """Adds nothing: the encoder sees a set of patches."""


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


@dataclasses.dataclass(frozen=True)
class SinCos2D(Position):
  """Fixed sines and cosines of column and row, as in MoCo v3
  (arXiv:2104.02057): [sin x w, cos x w, sin y w, cos y w], any grid.

  Attributes:
    temperature: the longest wavelength is 2 pi times this, in patches.
    fractional_side: None: x and y are absolute, in patches, and grow on with
      the grid. A number: they are fractions p / side of the image's own grid,
      in [0, 1) as in NaViT (arXiv:2307.06304), times this number: every image
      is covered as a grid of so many rows and columns is.
  """

  temperature: float = 10_000.0
  fractional_side: float | None = None

  def __post_init__(self):
    check_temperature(self.temperature)
    _check_side(self.fractional_side)

  def tables(self, width):
    if width % 4 or width < 8:
      raise ValueError(
        f"sincos2d positions need a width that is a multiple of 4 and at "
        f"least 8, not {width}"
      )
    return {}

  def __call__(self, tables, coords, grid_hw, width):
    del tables
    n = width // 4
    omega = self.temperature ** -(jnp.arange(n, dtype=jnp.float32) / (n - 1))
    places = _places(coords, grid_hw, self.fractional_side)
    angles = places[..., None] * omega.reshape(1, 1, 1, n)
    y, x = angles[:, :, 0], angles[:, :, 1]
    parts = [jnp.sin(x), jnp.cos(x), jnp.sin(y), jnp.cos(y)]
    return jnp.concatenate(parts, axis=-1)


@dataclasses.dataclass(frozen=True)
class Fourier(Position):
  """Learned frequencies: [sin(x u + y v), cos(x u + y v)] for the rows u and v
  of a kernel `[2, d / 2]` (NaViT, arXiv:2307.06304, section 2.1), any grid.

  Attributes:
    fractional_side: of x and y, as in `SinCos2D`; 1 is NaViT's own fraction.
      The kernel starts as N(0, 1), which tells neighbours apart where they are
      about 1 apart: with fractions give about as many as there are patches.
  """

  fractional_side: float | None = None

  def __post_init__(self):
    _check_side(self.fractional_side)

  def tables(self, width):
    if width % 2:
      raise ValueError(f"fourier positions need an even width, not {width}")
    return {FOURIER: (nn.initializers.normal(stddev=1.0), (2, width // 2))}

  def __call__(self, tables, coords, grid_hw, width):
    del width
    yx = _places(coords, grid_hw, self.fractional_side)
    angles = jnp.einsum(
      "blx,xf->blf",
      yx[..., ::-1],
      tables[FOURIER],
      precision=jax.lax.Precision.HIGHEST,
    )
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def _check_side(side):
  if side is not None and not side > 0:
    raise ValueError(
      f"fractional_side is {side}: give more than 0, or None for absolute "
      "coordinates"
    )


def _places(coords, grid_hw, fractional_side):
  """f32 `[b or 1, l, 2]`, row and column as the waves read them."""
  places = coords.astype(jnp.float32)
  if fractional_side is None:
    return places
  return places * (fractional_side / grid_hw.astype(jnp.float32))
