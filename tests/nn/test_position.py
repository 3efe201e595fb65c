import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.core.tokens import patchify
from flexivit_jax.nn.positions import (
  learned_grid,
  relative,
  rotary,
  row_column,
  waves,
)
from flexivit_jax.nn.positions import position as position_lib

WIDTH = 8


def _added(position, grid, table=None, name=learned_grid.TABLE):
  tokens = patchify(jnp.zeros((1, *grid, 1)), (1, 1))
  values = {} if table is None else {name: table}
  return position(values, tokens.coords, tokens.grid_hw, WIDTH)


def _table(size):
  rng = np.random.default_rng(0)
  return jnp.asarray(
    rng.normal(size=(1, size[0] * size[1], WIDTH)), jnp.float32
  )


@pytest.mark.parametrize("grid", [(1, 15), (5, 5), (7, 7), (6, 9), (64, 4)])
@pytest.mark.parametrize("antialias", [True, False])
def test_learned_grid_equals_jax_image_resize(grid, antialias):
  size = (7, 7)
  table = _table(size)
  got = _added(learned_grid.LearnedGrid(size, antialias), grid, table)
  expected = jax.image.resize(
    table.reshape(*size, WIDTH), (*grid, WIDTH), "linear", antialias=antialias
  )
  # Weights are products of two float32 roundings; tables of order 1.
  np.testing.assert_allclose(
    got[0], expected.reshape(-1, WIDTH), rtol=0, atol=1.5e-6
  )


def test_learned_grid_passes_gradients_to_the_whole_table():
  position = learned_grid.LearnedGrid((4, 4))
  gradient = jax.grad(lambda t: _added(position, (6, 6), t).sum())(
    _table((4, 4))
  )
  # Each of 36 tokens hands out weights that sum to 1.
  assert gradient[..., 0].sum() == pytest.approx(36, rel=1e-5)
  assert (gradient > 0).all()


def test_sincos_is_moco_v3():
  got = np.asarray(_added(waves.SinCos2D(), (2, 3)))[0]
  # Width 8: two frequencies, 1 and 1e-4. Token 5 is row 1, column 2.
  x, y = 2.0, 1.0
  expected = [
    *(np.sin(x), np.sin(x * 1e-4), np.cos(x), np.cos(x * 1e-4)),
    *(np.sin(y), np.sin(y * 1e-4), np.cos(y), np.cos(y * 1e-4)),
  ]
  # float32 powers of the temperature.
  np.testing.assert_allclose(got[5], expected, rtol=0, atol=2e-6)


def test_fractional_sincos_covers_every_image_alike():
  # r = p / side: row 1 of 2 is row 2 of 4, and as a grid of 8 it is row 4.
  position = waves.SinCos2D(fractional_side=8.0)
  coarse, fine = (
    np.asarray(_added(position, grid)).reshape(*grid, WIDTH)
    for grid in ((2, 3), (4, 6))
  )
  np.testing.assert_allclose(coarse, fine[::2, ::2], rtol=0, atol=1e-6)
  absolute = np.asarray(_added(waves.SinCos2D(), (8, 8)))
  own = np.asarray(_added(position, (8, 8)))
  np.testing.assert_array_equal(own, absolute)
  np.testing.assert_allclose(
    coarse[1, 0], absolute.reshape(8, 8, WIDTH)[4, 0], rtol=0, atol=1e-6
  )
  assert (
    np.abs(coarse - _added(waves.SinCos2D(), (2, 3)).reshape(2, 3, WIDTH)).max()
    > 0.1
  )


@pytest.mark.parametrize("side", [None, 1.0, 12.0])
def test_fourier_is_a_linear_map_then_waves(side):
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(2, WIDTH // 2))
  grid = (3, 5)
  rows, cols = np.divmod(np.arange(15), 5)
  if side is not None:
    rows, cols = rows / 3 * side, cols / 5 * side
  angles = np.outer(cols, kernel[0]) + np.outer(rows, kernel[1])
  expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
  position = waves.Fourier(side)
  got = _added(position, grid, jnp.asarray(kernel, jnp.float32), waves.FOURIER)
  # Angles up to 30 in float32.
  np.testing.assert_allclose(got[0], expected, rtol=0, atol=1e-5)
  swapped = _added(
    position, grid, jnp.asarray(kernel[::-1], jnp.float32), waves.FOURIER
  )
  assert np.abs(swapped[0] - expected).max() > 0.1
  ((name, (_, shape)),) = position.tables(WIDTH).items()
  assert (name, shape) == ("pos_embedding_fourier/kernel", (2, 4))


LARGEST = [
  (position_lib.NoPosition(), None),
  (learned_grid.LearnedGrid((3, 4)), None),
  (waves.SinCos2D(), None),
  (waves.Fourier(), None),
  (row_column.RowColumn((5, 7)), (5, 7)),
  (row_column.RowColumn((5, 7), first=2), (3, 5)),
  (row_column.RowColumn((5, 7), read="fractional"), None),
  (row_column.RowColumn((5, 7), read="interpolated"), None),
  (row_column.JointTable((5, 7)), (5, 7)),
  (rotary.Rotary(), None),
  (relative.Relative((5, 7)), (5, 7)),
]


@pytest.mark.parametrize(("position", "largest"), LARGEST, ids=str)
def test_a_grid_beyond_the_largest_is_refused_where_it_is_known(
  position, largest
):
  assert position.largest_grid == largest
  if largest is None:
    position_lib.check_grid(position, (1000, 1000))
    return
  rows, cols = largest
  position_lib.check_grid(position, largest)
  for grid in ((rows + 1, 1), (1, cols + 1)):
    text = f"{grid[0]}x{grid[1]} patches are more than the {rows}x{cols} "
    with pytest.raises(ValueError, match=text):
      position_lib.check_grid(position, grid)


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: waves.Fourier().tables(9), "even width, not 9"),
    (lambda: waves.Fourier(fractional_side=0.0), "is 0.0: give more than 0"),
    (lambda: waves.SinCos2D().tables(10), "multiple of 4 and at least 8, not"),
    (lambda: waves.SinCos2D(0.5), "temperature is 0.5: give at least 1"),
    (lambda: learned_grid.LearnedGrid((0, 7)), "is (0, 7) rows and cols: give"),
  ],
)
def test_refusals(make, text):
  with pytest.raises(ValueError, match=re.escape(text)):
    make()
