"""Tables with an entry for each row and column, against plain indexing."""

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


def test_a_sum_has_no_interaction_of_row_and_column():
  def interaction(combine, read):
    x = _added(row_column.RowColumn((6, 6), combine, read), (5, 6))
    return np.abs(x - x[:, :1] - x[:1] + x[:1, :1]).max()

  for read in row_column.READ:
    # Roundings of numbers of order 1.
    assert interaction("sum", read) < 2e-6
    assert interaction("stack", read) < 2e-6
    assert interaction("product", read) > 0.1


@pytest.mark.parametrize("combine", row_column.COMBINE)
@pytest.mark.parametrize("grid", [(1, 1), (2, 5), (7, 3), (30, 40)])
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


@pytest.mark.parametrize("combine", row_column.COMBINE)
@pytest.mark.parametrize("grid", [(1, 15), (4, 6), (9, 3), (30, 40)])
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


def test_antialias_matters_where_the_grid_is_smaller():
  on, off = (
    _added(
      row_column.RowColumn((9, 9), read="interpolated", antialias=a), (4, 4)
    )
    for a in (True, False)
  )
  assert np.abs(on - off).max() > 0.1


@pytest.mark.parametrize(
  "position",
  [
    *(row_column.RowColumn((4, 6), combine) for combine in row_column.COMBINE),
    row_column.RowColumn((4, 6), read="interpolated"),
    row_column.JointTable((4, 6)),
  ],
  ids=str,
)
def test_what_is_added_at_first_is_as_large_as_a_learned_grid(position):
  width = 256
  fresh = {
    name: init(jax.random.key(i), shape)
    for i, (name, (init, shape)) in enumerate(position.tables(width).items())
  }
  tokens = patchify(jnp.zeros((1, 4, 6, 1)), (1, 1))
  added = position(fresh, tokens.coords, tokens.grid_hw, width)
  # Of 2560 independent numbers at least: 5 standard deviations are 7 %.
  assert np.std(added) == pytest.approx(width**-0.5, rel=0.1)


def test_long_tables_are_gathered():
  position = row_column.RowColumn((4096, 4096))
  values = {n: jnp.zeros(s) for n, (_, s) in position.tables(WIDTH).items()}
  tokens = patchify(jnp.zeros((1, 4, 4, 1)), (1, 1))
  program = jax.jit(
    lambda t: position(t, tokens.coords, tokens.grid_hw, WIDTH)
  ).lower(values)
  assert "dot_general" not in program.as_text()
  gradient = jax.grad(
    lambda t: position(t, tokens.coords, tokens.grid_hw, WIDTH).sum()
  )(values)
  # Each of 4 rows is read by 4 patches, the others by none.
  assert gradient[row_column.ROW].sum(axis=1)[:6].tolist() == [32] * 4 + [0, 0]


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
  ("make", "message"),
  [
    (
      lambda: row_column.RowColumn((0, 7)),
      "size is (0, 7) rows and cols: give 1 to 65536 of each",
    ),
    (
      lambda: row_column.RowColumn((2, 7), "concat"),
      "combine is 'concat': give one of sum, product, stack",
    ),
    (
      lambda: row_column.RowColumn((2, 7), read="relative"),
      "read is 'relative': give one of absolute, fractional, interpolated",
    ),
    (
      lambda: row_column.RowColumn((2, 7), first=2),
      "first is 2: give 0 to 1, the entry of coordinate 0 in tables of 2 and 7",
    ),
    (
      lambda: row_column.RowColumn((2, 7), read="fractional", first=1),
      "first is 1, but fractional coordinates are no numbers of entries: leave "
      "it out",
    ),
    (
      lambda: row_column.RowColumn((2, 7), antialias=False),
      "antialias is off, but absolute coordinates resize no table: leave it "
      "out",
    ),
    (
      lambda: row_column.RowColumn((2, 7), "stack").tables(9),
      "row_column positions that are stacked need an even width, not 9",
    ),
    (
      lambda: row_column.JointTable((2, 1025)),
      "size is (2, 1025) rows and cols: give 1 to 1024 of each",
    ),
  ],
)
def test_refusals(make, message):
  with pytest.raises(ValueError) as caught:
    make()
  assert str(caught.value) == message
