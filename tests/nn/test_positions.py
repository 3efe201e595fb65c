import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.core.tokens import patchify
from flexivit_jax.nn import positions

WIDTH = 8


def _added(position, grid, table=None):
  tokens = patchify(jnp.zeros((1, *grid, 1)), (1, 1))
  tables = {} if table is None else {positions.TABLE: table}
  return position(tables, tokens.coords, tokens.grid_hw, WIDTH)


def _table(size):
  rng = np.random.default_rng(0)
  return jnp.asarray(
    rng.normal(size=(1, size[0] * size[1], WIDTH)), jnp.float32
  )


@pytest.mark.parametrize(
  "grid", [(1, 15), (5, 5), (7, 7), (6, 9), (15, 15), (30, 30), (64, 4)]
)
@pytest.mark.parametrize("antialias", [True, False])
def test_learned_grid_equals_jax_image_resize(grid, antialias):
  size = (7, 7)
  table = _table(size)
  got = _added(positions.LearnedGrid(size, antialias), grid, table)
  expected = jax.image.resize(
    table.reshape(*size, WIDTH), (*grid, WIDTH), "linear", antialias=antialias
  )
  # Weights are products of two float32 roundings; tables of order 1.
  np.testing.assert_allclose(
    got[0], expected.reshape(-1, WIDTH), rtol=0, atol=1.5e-6
  )


def test_antialias_matters_where_the_grid_is_smaller():
  table = _table((7, 7))
  on, off = (
    _added(positions.LearnedGrid((7, 7), aa), (5, 5), table)
    for aa in (True, False)
  )
  assert np.abs(on - off).max() > 0.1


def test_learned_grid_is_the_identity_on_its_own_grid():
  table = _table((3, 5))
  got = _added(positions.LearnedGrid((3, 5)), (3, 5), table)
  np.testing.assert_allclose(got, table, rtol=0, atol=1e-6)


def test_tokens_of_different_grids_can_share_a_row():
  position, table = positions.LearnedGrid((4, 4)), _table((4, 4))
  alone = [_added(position, grid, table)[0] for grid in ((2, 3), (5, 1))]
  tokens = [
    patchify(jnp.zeros((1, *grid, 1)), (1, 1)) for grid in ((2, 3), (5, 1))
  ]
  coords, grid_hw = (
    jnp.concatenate([getattr(t, name) for t in tokens], axis=1)
    for name in ("coords", "grid_hw")
  )
  packed = position({positions.TABLE: table}, coords, grid_hw, WIDTH)
  np.testing.assert_array_equal(packed[0], jnp.concatenate(alone))


def test_learned_grid_passes_gradients_to_the_whole_table():
  position = positions.LearnedGrid((4, 4))
  gradient = jax.grad(lambda t: _added(position, (6, 6), t).sum())(
    _table((4, 4))
  )
  # Each of 36 tokens hands out weights that sum to 1.
  assert gradient[..., 0].sum() == pytest.approx(36, rel=1e-5)
  assert (gradient > 0).all()


def test_sincos_is_moco_v3():
  got = np.asarray(_added(positions.SinCos2D(), (2, 3)))[0]
  # Width 8: two frequencies, 1 and 1e-4. Token 5 is row 1, column 2.
  x, y = 2.0, 1.0
  expected = [
    *(np.sin(x), np.sin(x * 1e-4), np.cos(x), np.cos(x * 1e-4)),
    *(np.sin(y), np.sin(y * 1e-4), np.cos(y), np.cos(y * 1e-4)),
  ]
  # float32 powers of the temperature.
  np.testing.assert_allclose(got[5], expected, rtol=0, atol=2e-6)


def test_no_position_adds_nothing():
  assert _added(positions.NoPosition(), (2, 2)) is None


def test_refusals():
  with pytest.raises(ValueError, match=r"multiple of 4.*not 10"):
    positions.SinCos2D().tables(10)
  with pytest.raises(ValueError, match=r"\(0, 7\) rows and cols"):
    positions.LearnedGrid((0, 7))


def _row_column(grid, tables, **fields):
  names = positions.ROWS, positions.COLS
  size = tuple(map(len, tables))
  tokens = patchify(jnp.zeros((1, *grid, 1)), (1, 1))
  return positions.RowColumn(size, **fields)(
    dict(zip(names, tables, strict=True)), tokens.coords, tokens.grid_hw, WIDTH
  )


def _rows_and_cols(rows, cols):
  table = _table((1, rows + cols))[0]
  return table[:rows], table[rows:]


def test_row_and_column_entries_are_added():
  rows, cols = _rows_and_cols(4, 6)
  for first in (0, 1):
    got = _row_column((2, 3), (rows, cols), first=first)
    expected = rows[first : first + 2, None] + cols[None, first : first + 3]
    np.testing.assert_array_equal(got[0], expected.reshape(-1, WIDTH))


def test_entries_beyond_the_table_are_nan():
  got = _row_column((4, 2), _rows_and_cols(4, 6), first=1)
  assert np.isnan(got[0, 6:]).all()
  assert np.isfinite(got[0, :6]).all()


@pytest.mark.parametrize("grid", [(1, 15), (4, 6), (7, 2)])
def test_interpolated_row_and_column_equal_jax_image_resize(grid):
  tables = _rows_and_cols(7, 5)
  got = _row_column(grid, tables, read="interpolated")
  rows, cols = (
    jax.image.resize(t, (n, WIDTH), "linear", antialias=False)
    for t, n in zip(tables, grid, strict=True)
  )
  expected = rows[:, None] + cols[None]
  np.testing.assert_allclose(
    got[0], expected.reshape(-1, WIDTH), rtol=0, atol=1.5e-6
  )


@pytest.mark.parametrize(
  ("fields", "text"),
  [
    ({"size": (0, 3)}, "size is (0, 3) rows and cols: give at least 1"),
    ({"combine": "stack"}, "combine is 'stack': give 'sum'"),
    (
      {"read": "fractional"},
      "read is 'fractional': give 'absolute' or 'interpolated'",
    ),
  ],
)
def test_row_and_column_values_that_cannot_be_are_refused(fields, text):
  with pytest.raises(ValueError) as caught:
    positions.RowColumn(**({"size": (2, 3)} | fields))
  assert str(caught.value) == text
