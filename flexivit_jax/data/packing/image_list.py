"""Images of any size, given at once, as rows of packed patches."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np

from flexivit_jax.core import resize as core_resize
from flexivit_jax.core.resolution import Resolution
from flexivit_jax.core.tokens import Tokens, patchify_numpy
from flexivit_jax.data.pixels import resize as pixels_resize

# Rows are as long as the longest image, rounded up to one of few lengths, so
# that other images seldom need another program.
SHORTEST_ROW = 128

# Patches that go through the model at once, at least one row.
TOKENS_AT_ONCE = 8192


@dataclasses.dataclass(frozen=True)
class Placed:
  """Where an image is.

  Attributes:
    image: its number in the list.
    row, slot: in the rows of its `Tokens`; slots count from 0.
    start: place of its first patch in the row.
    grid_hw: its (rows, cols) of patches.
  """

  image: int
  row: int
  slot: int
  start: int
  grid_hw: tuple[int, int]

  def patches_in(self, x: np.ndarray) -> np.ndarray:
    """Its `[rows, cols, d]` of `[b, l, d]`."""
    end = self.start + math.prod(self.grid_hw)
    return x[self.row, self.start : end].reshape(*self.grid_hw, -1)


def pack(
  images: Sequence[np.ndarray],
  patch_hw: tuple[int, int],
  resolution: Resolution,
  largest_grid: tuple[int, int] | None,
) -> Iterator[tuple[Tokens, list[Placed]]]:
  """Rows of patches, a few at a time, all of the same shape.

  Args:
    images: `[h, w, c]` each, u8, or float in [-1, 1].
    resolution: the size of each; not a random one.
    largest_grid: (rows, cols) that the model has positions for; None: any.

  Raises:
    ValueError: an image has a larger grid, naming its number.
  """
  sizes = [resolution(x.shape[:2], patch_hw, None) for x in images]
  grids = [(h // patch_hw[0], w // patch_hw[1]) for h, w in sizes]
  for i, (rows, cols) in enumerate(grids):
    if largest_grid is not None and (
      rows > largest_grid[0] or cols > largest_grid[1]
    ):
      h, w = images[i].shape[:2]
      raise ValueError(
        f"image {i} of {h}x{w} pixels has {rows}x{cols} patches, and the "
        f"model's positions end at {largest_grid[0]}x{largest_grid[1]}: give a "
        "smaller image, larger patches, or a resolution of fewer patches, such "
        f"as NaFlex({min(largest_grid)})"
      )
  lengths = [math.prod(grid) for grid in grids]
  row_length = _rounded_up(max(lengths), SHORTEST_ROW)
  rows = first_fit(lengths, row_length)
  slots = _rounded_up(max(map(len, rows)), 1)
  at_once = max(1, TOKENS_AT_ONCE // row_length)
  at_once = min(at_once, _rounded_up(len(rows), 1))
  for first in range(0, len(rows), at_once):
    chosen = rows[first : first + at_once]
    placed = []
    tokens = _empty(images[0], at_once, row_length, slots, patch_hw)
    for row, members in enumerate(chosen):
      start = 0
      for slot, i in enumerate(members):
        placed.append(Placed(i, row, slot, start, grids[i]))
        _place(tokens, placed[-1], _resized(images[i], sizes[i]), patch_hw)
        start += lengths[i]
    yield tokens, placed


def _rounded_up(number: int, smallest: int) -> int:
  """smallest times a power of two, or one and a half times that."""
  while smallest < number:
    if smallest % 2 == 0 and smallest * 3 // 2 >= number:
      return smallest * 3 // 2
    smallest *= 2
  return smallest


def _empty(image, rows, row_length, slots, patch_hw) -> Tokens:
  shape = (rows, row_length)
  numbers = math.prod(patch_hw) * image.shape[-1]
  return Tokens(
    patches=np.zeros((*shape, numbers), image.dtype),
    coords=np.zeros((*shape, 2), np.int32),
    grid_hw=np.ones((*shape, 2), np.int32),
    segments=np.zeros(shape, np.int32),
    patch_sizes=(patch_hw,),
    num_images=slots,
  )


def _place(tokens: Tokens, at: Placed, image: np.ndarray, patch_hw) -> None:
  own = jax.tree.map(lambda x: x[0], patchify_numpy(image[None], patch_hw))
  places = at.row, slice(at.start, at.start + len(own.patches))
  tokens.patches[places] = own.patches
  tokens.coords[places] = own.coords
  tokens.grid_hw[places] = own.grid_hw
  tokens.segments[places] = at.slot + 1


def _resized(image: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
  """Bilinear with antialias, of any type and number of channels."""
  if image.shape[:2] == hw:
    return image
  if image.dtype == np.uint8 and image.shape[-1] == 3:
    return pixels_resize.resize(image, hw)
  resized = core_resize.resize_grid(image, hw, antialias=True)
  if image.dtype == np.uint8:
    resized = np.floor(resized + 0.5)
  return resized.astype(image.dtype)


def first_fit(
  lengths: Iterable[int],
  row_length: int,
  *,
  max_images: int | None = None,
  open_rows: int | None = None,
) -> list[list[int]]:
  """Assigns images to rows, each to the first that has room.

  Args:
    lengths: tokens of each image, 1 to row_length.
    row_length: tokens of a row.
    max_images: of a row; None: any number.
    open_rows: rows that are open at the same time; None: all stay open.

  Returns:
    For each row the numbers of its images, ascending; rows in the order in
    which they were opened.

  Raises:
    ValueError: an image does not fit into an empty row.
  """
  closed: list[list[int]] = []
  rows: list[list[int]] = []
  free: list[int] = []
  for i, length in enumerate(lengths):
    if not 1 <= length <= row_length:
      raise ValueError(
        f"image {i} has {length} tokens, and a row {row_length}: resize it to "
        "1 to that many, or take longer rows"
      )
    fits = (
      r
      for r, row in enumerate(rows)
      if length <= free[r] and (max_images is None or len(row) < max_images)
    )
    row = next(fits, None)
    if row is None:
      if open_rows is not None and len(rows) == open_rows:
        closed += rows
        rows, free = [], []
      rows.append([])
      free.append(row_length)
      row = len(rows) - 1
    rows[row].append(i)
    free[row] -= length
  return closed + rows
