"""Similarity of the position embeddings of a grid of patches."""

import dataclasses
import pathlib

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from flexivit_jax.analysis.analysis import (
  Analysis,
  Findings,
  Given,
  Option,
  Refusal,
  refusing,
)
from flexivit_jax.analysis.figures import SEQUENTIAL
from flexivit_jax.core.sizes import parse_hw
from flexivit_jax.core.text import align, cut
from flexivit_jax.nn.positions import learned_grid, row_column
from flexivit_jax.nn.positions import position as position_lib

# A map of 32x32 for each of 32x32 patches is a million dots.
MOST = 32
# For positions without a table; ViT's own at 224 px.
USUAL = (14, 14)


@dataclasses.dataclass(frozen=True, eq=False)
class Similarity:
  """Cosines between the position embeddings of one grid.

  Attributes:
    grid_hw: (rows, cols) of patches.
    cosines: float64 `[rows, cols, rows, cols]`; 0 with an embedding of zeros.
    how: how the grid's embeddings come about, see `reading`.
  """

  grid_hw: tuple[int, int]
  cosines: np.ndarray
  how: str

  @property
  def cross(self) -> float:
    """Mean cosine of pairs in the same row or column, less that of all other
    pairs, no patch with itself; nan where there is but one row or column."""
    rows, cols = self.grid_hw
    row, col = np.divmod(np.arange(rows * cols), cols)
    same = (row[:, None] == row) | (col[:, None] == col)
    others = ~same
    np.fill_diagonal(same, False)
    flat = self.cosines.reshape(same.shape)
    if not others.any():
      return float("nan")
    return float(flat[same].mean() - flat[others].mean())


def stored_grid(position: position_lib.Position) -> tuple[int, int] | None:
  """(rows, cols) of patches for which a table is read as it is; None: no
  table, or one that is read between its entries on every grid."""
  match position:
    case learned_grid.LearnedGrid(size) | row_column.JointTable(size):
      return size
    case row_column.RowColumn((rows, cols), _, "absolute" | "interpolated"):
      return rows - position.first, cols - position.first
  return None


def reading(position: position_lib.Position, grid_hw: tuple[int, int]) -> str:
  """The origin of a grid's embeddings, in a word or two."""
  if stored_grid(position) == tuple(grid_hw):
    return "stored"
  match position:
    case (
      learned_grid.LearnedGrid()
      | row_column.RowColumn(read="interpolated" | "fractional")
    ):
      return "interpolated"
    case row_column.RowColumn() | row_column.JointTable():
      return "part of the table"
  return "computed"


def embeddings(
  position: position_lib.Position, arrays, grid_hw: tuple[int, int], width: int
) -> np.ndarray:
  """Embeddings that are added to a grid, float32 `[rows, cols, width]`.

  Args:
    arrays: {our name: array} with at least the position's tables.

  Raises:
    ValueError: nothing is added, or the grid is larger than the tables.
  """
  rows, cols = grid_hw
  coords = jnp.asarray(
    np.stack(np.divmod(np.arange(rows * cols), cols), axis=-1), jnp.int32
  )[None]
  own = {
    name: jnp.asarray(arrays[name], jnp.float32)
    for name in position.tables(width)
  }
  added = position(
    own,
    coords,
    jnp.broadcast_to(jnp.asarray(grid_hw, jnp.int32), coords.shape),
    width,
  )
  if added is None:
    raise ValueError(
      f"{type(position).__name__} adds nothing to the patches: only learned, "
      "sincos2d, row and column, joint and fourier positions can be compared"
    )
  position_lib.check_grid(position, grid_hw)
  return np.asarray(added, np.float32).reshape(rows, cols, width)


def similarity(
  position: position_lib.Position, arrays, grid_hw: tuple[int, int], width: int
) -> Similarity:
  """Cosines of each patch's embedding with all others (figure 7, centre, of
  ViT, arXiv:2010.11929). Arguments and errors as of `embeddings`."""
  x = embeddings(position, arrays, grid_hw, width).astype(np.float64)
  norms = np.linalg.norm(x, axis=-1, keepdims=True)
  x = x / np.where(norms == 0, 1, norms)
  cosines = np.einsum("ijd,kld->ijkl", x, x, optimize=True)
  return Similarity(tuple(grid_hw), cosines, reading(position, grid_hw))


def draw(found: Similarity, *, title: str) -> Figure:
  """A map for each patch, at its place, of the cosine with every patch."""
  rows, cols = found.grid_hw
  # Maps with a line of nothing between them, as one image.
  canvas = np.full((rows * (rows + 1) - 1, cols * (cols + 1) - 1), np.nan)
  for i, j in np.ndindex(rows, cols):
    top, left = i * (rows + 1), j * (cols + 1)
    canvas[top : top + rows, left : left + cols] = found.cosines[i, j]
  # Maps as high as wide: a map of each of 4x16 patches with square cells would
  # be a strip of 1:16.
  height, width = (5 * max(n / max(rows, cols), 0.3) for n in (rows, cols))
  figure = Figure(figsize=(1.6 + width, 0.9 + height), layout="constrained")
  axes = figure.add_subplot()
  image = axes.imshow(
    canvas,
    cmap=SEQUENTIAL,
    vmin=-1,
    vmax=1,
    interpolation="nearest",
    aspect="auto",
  )
  for set_ticks, count in ((axes.set_yticks, rows), (axes.set_xticks, cols)):
    shown = np.arange(0, count, -(-count // 16))
    set_ticks(shown * (count + 1) + (count - 1) / 2, shown + 1)
  axes.set_xlabel("column of the patch")
  axes.set_ylabel("row of the patch")
  axes.set_title(title, fontsize="medium")
  figure.colorbar(image, ax=axes, label="cosine similarity")
  return figure


def run(checkpoint, options) -> Findings:
  model, arrays = checkpoint.model, checkpoint.arrays
  grids = options["grids"] or []
  stored = stored_grid(model.position)
  if stored is not None and max(stored) <= MOST:
    grids = [stored, *grids]
  if not grids and stored is not None:
    raise Refusal(
      f"the stored positions are for {stored[0]}x{stored[1]} patches, more "
      f"than {MOST}x{MOST}, which a figure can show: give --grids, 16x16 say"
    )
  grids = list(dict.fromkeys(grids or [USUAL]))
  with refusing("--checkpoint"):
    embeddings(model.position, arrays, (1, 1), model.size.width)
  with refusing("--grids"):
    found = {
      f"{grid[0]}x{grid[1]}": similarity(
        model.position, arrays, grid, model.size.width
      )
      for grid in grids
    }
  source = cut(pathlib.Path(checkpoint.spec.path).name, 40)
  rows = [
    (name, x.how, "none" if np.isnan(x.cross) else f"{x.cross:+.3f}")
    for name, x in found.items()
  ]
  return Findings(
    {
      f"positions_{name}": draw(
        x, title=f"{source}\npositions of {name} patches, {x.how}"
      )
      for name, x in found.items()
    },
    {f"cosines_{name}": x.cosines for name, x in found.items()},
    (
      "mean cosine of patches in the same row or column, less that of others:",
      align(rows, left=2),
    ),
  )


def _grids(text) -> list[tuple[int, int]]:
  """Parse "7x7,15x10" as [(7, 7), (15, 10)]."""
  try:
    grids = [parse_hw(x) for x in text.split(",")]
  except ValueError:
    raise ValueError(
      "give rows and columns of patches, 7x7,15x10 say"
    ) from None
  if max(map(max, grids)) > MOST:
    raise ValueError(
      f"give at most {MOST}x{MOST} patches, more cannot be seen in a figure"
    )
  return grids


ANALYSIS = Analysis(
  "positions",
  "cosine similarity of position embeddings, stored and interpolated",
  Given.STORED,
  (
    Option(
      "grids",
      "7x7,15x10: rows and columns of patches, beside the stored table; "
      f"default: that alone, or {USUAL[0]}x{USUAL[1]} where there is none",
      parse=_grids,
    ),
  ),
  run,
)
