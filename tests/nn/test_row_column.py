"""Tables with an entry for each row and column, against plain indexing."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.core.tokens import patchify
from flexivit_jax.nn.positions import row_column

WIDTH = 8


def _tables(position, seed=0):
  rng = np.random.default_rng(seed)
  return {
    name: jnp.asarray(rng.normal(size=shape), jnp.float32)
    for name, (_, shape) in position.tables(WIDTH).items()
  }


def _added(position, grid, values=None):
  """`[rows, cols, d]`."""
  tokens = patchify(jnp.zeros((1, *grid, 1)), (1, 1))
  values = _tables(position) if values is None else values
  added = position(values, tokens.coords, tokens.grid_hw, WIDTH)
  return np.asarray(added).reshape(*grid, WIDTH)


def _combined(combine, row, col):
  """Numpy's own, of `[rows, d]` and `[cols, d]`."""
  row, col = row[:, None], col[None]
  if combine == "stack":
    grid = row.shape[0], col.shape[1]
    parts = (np.broadcast_to(x, (*grid, x.shape[-1])) for x in (row, col))
    return np.concatenate(list(parts), axis=-1)
  return {"sum": row + col, "product": row * col}[combine]


@pytest.mark.parametrize("combine", row_column.COMBINE)
@pytest.mark.parametrize("first", [0, 1])
def test_absolute_entries_are_numbered_by_row_and_column(combine, first):
  position = row_column.RowColumn((6, 9), combine, first=first)
  values = _tables(position)
  assert values[row_column.ROW].shape == (6, 4 if combine == "stack" else 8)
  row, col = (
    np.asarray(values[x])[first:] for x in (row_column.ROW, row_column.COL)
  )
  got = _added(position, (3, 5))
  np.testing.assert_array_equal(got, _combined(combine, row[:3], col[:5]))
  # Columns are not taken for rows, nor the first entry for another.
  assert np.abs(got - _combined(combine, col[:3], row[:5])).max() > 0.1
  other = row_column.RowColumn((6, 9), combine, first=1 - first)
  assert np.abs(got - _added(other, (3, 5), values)).max() > 0.1


@pytest.mark.parametrize("combine", row_column.COMBINE)
def test_beyond_the_last_absolute_entry_is_the_last(combine):
  position = row_column.RowColumn((3, 4), combine, first=1)
  assert position.largest_grid == (2, 3)
  within, beyond = (_added(position, grid) for grid in ((2, 3), (5, 7)))
  np.testing.assert_array_equal(beyond[:2, :3], within)
  np.testing.assert_array_equal(beyond[2:], np.stack([beyond[1]] * 3))
  np.testing.assert_array_equal(
    beyond[:, 3:], np.stack([beyond[:, 2]] * 4, axis=1)
  )


@pytest.mark.parametrize(
  ("combine", "grid"),
  [("sum", (1, 1)), ("product", (2, 5)), ("stack", (7, 3)), ("sum", (30, 40))],
)
def test_fractions_of_the_side_run_from_the_first_entry_to_the_last(
  combine, grid
):
  position = row_column.RowColumn((4, 6), combine, "fractional")
  values = _tables(position)
  assert position.largest_grid is None

  def read(name, side):
    table = np.asarray(values[name], np.float64)
    entries = np.linspace(0, 1, len(table))
    places = np.arange(side) / side  # r = p / side
    columns = [np.interp(places, entries, column) for column in table.T]
    return np.stack(columns, axis=-1)

  row, col = (
    read(x, n) for x, n in zip((row_column.ROW, row_column.COL), grid)
  )
  got = _added(position, grid)
  # A place of float32 up to 5, in a table of order 1.
  np.testing.assert_allclose(
    got, _combined(combine, row, col), rtol=0, atol=3e-6
  )


def test_a_fraction_is_of_the_images_own_side():
  # Row 2 of 4 is halfway, as row 4 of 8; so is the middle of three entries.
  position = row_column.RowColumn((3, 5), "stack", "fractional")
  half, same = _added(position, (4, 1))[2, 0], _added(position, (8, 1))[4, 0]
  np.testing.assert_array_equal(half, same)
  np.testing.assert_array_equal(half[:4], _tables(position)[row_column.ROW][1])
  # p / (side - 1), the other convention, is another place.
  assert np.abs(half - _added(position, (5, 1))[2, 0]).max() > 0.1


@pytest.mark.parametrize(
  ("combine", "grid"),
  [("sum", (1, 15)), ("product", (9, 3)), ("stack", (30, 40)), ("sum", (4, 6))],
)
@pytest.mark.parametrize("antialias", [True, False])
def test_interpolated_tables_are_resized_by_jax(combine, grid, antialias):
  position = row_column.RowColumn(
    (4, 6), combine, "interpolated", antialias=antialias
  )
  values = _tables(position)
  assert position.largest_grid is None
  row, col = (
    np.asarray(
      jax.image.resize(
        values[name],
        (side, values[name].shape[1]),
        "linear",
        antialias=antialias,
      )
    )
    for name, side in zip((row_column.ROW, row_column.COL), grid)
  )
  got = _added(position, grid)
  # As for a learned grid: two roundings of weights, tables of order 1.
  np.testing.assert_allclose(
    got, _combined(combine, row, col), rtol=0, atol=3e-6
  )


def test_the_joint_table_is_indexed_by_the_pair():
  position = row_column.JointTable((3, 4))
  table = np.asarray(_tables(position)[row_column.JOINT])
  assert table.shape == (3, 4, WIDTH)
  np.testing.assert_array_equal(_added(position, (2, 3)), table[:2, :3])
  np.testing.assert_array_equal(_added(position, (3, 4)), table)


def test_beyond_the_joint_table_is_its_edge():
  # The row stays where only the column is beyond: nothing wraps round.
  position = row_column.JointTable((3, 4))
  assert position.largest_grid == (3, 4)
  table = np.asarray(_tables(position)[row_column.JOINT])
  expected = np.pad(table, ((0, 2), (0, 3), (0, 0)), mode="edge")
  np.testing.assert_array_equal(_added(position, (5, 7)), expected)


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: row_column.RowColumn((0, 7)), "is (0, 7) rows and cols: give"),
    (lambda: row_column.RowColumn((2, 7), "concat"), "'concat': give one of"),
    (lambda: row_column.RowColumn((2, 7), read="x"), "'x': give one of"),
    (lambda: row_column.RowColumn((2, 7), first=2), "first is 2: give 0 to 1"),
    (
      lambda: row_column.RowColumn((2, 7), read="fractional", first=1),
      "first is 1, but fractional",
    ),
    (
      lambda: row_column.RowColumn((2, 7), antialias=False),
      "absolute coordinates resize no table: leave it out",
    ),
    (lambda: row_column.RowColumn((2, 7), "stack").tables(9), "width, not 9"),
    (lambda: row_column.JointTable((2, 1025)), "is (2, 1025) rows and cols"),
  ],
)
def test_refusals(make, text):
  with pytest.raises(ValueError, match=re.escape(text)):
    make()
