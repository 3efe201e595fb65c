"""Packed rows as pictures."""

import numpy as np

from flexivit_jax.analysis import packed_rows
from flexivit_jax.core.tokens import Tokens


def row_of(*images):
  """One row: images of one colour each, as (colour, (rows, cols), dropped)."""
  patches, coords, grids, segments = [], [], [], []
  for number, (colour, grid, dropped) in enumerate(images, start=1):
    cells = [c for c in np.ndindex(grid) if c not in dropped]
    patches += [np.full(2 * 3 * 3, colour)] * len(cells)
    coords += cells
    grids += [grid] * len(cells)
    segments += [number] * len(cells)
  for _ in range(3):
    patches.append(np.zeros(18))
    coords.append((0, 0))
    grids.append((1, 1))
    segments.append(0)
  arrays = (
    np.asarray(x)[None].astype(np.int32) for x in (coords, grids, segments)
  )
  return Tokens(
    np.asarray(patches, np.uint8)[None],
    *arrays,
    patch_sizes=((2, 3),),
    num_images=len(images),
  )


ROW = row_of((10, (2, 1), ()), (200, (1, 4), {(0, 1), (0, 2)}))


def test_pictures_are_the_images_with_gaps_in_their_colour():
  whole, gapped = packed_rows.pictures(ROW)
  assert whole.shape == (4, 3, 3)
  assert (whole == 10).all()
  assert gapped.shape == (2, 12, 3)
  assert (gapped[:, :3] == 200).all()
  assert (gapped[:, 9:] == 200).all()
  # The second colour, #D55E00.
  assert (gapped[:, 3:9] == (0xD5, 0x5E, 0x00)).all()


def test_lengths_are_without_what_was_dropped():
  assert packed_rows.row_lengths(ROW) == [[2, 2]]


def test_bands_are_where_the_tokens_are():
  figure = packed_rows.draw(ROW, title="rows")
  (axes,) = figure.axes
  bands = [
    (p.get_x(), p.get_width())
    for p in axes.patches
    if p.get_y() == 0 and p.get_fill()
  ]
  # Behind all the whole row, of which padding stays to be seen.
  assert bands == [(0, 7), (0, 2), (2, 2)]
  assert len(axes.images) == 2
  figure.canvas.draw()
