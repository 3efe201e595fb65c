"""Positions of a grid's cells, taken or computed for each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.nn.positions import learned_grid, row_column, waves
from flexivit_jax.nn.positions.position import OfWholeGrid

GRID = (3, 4)


@pytest.mark.parametrize(
  "position",
  [
    learned_grid.LearnedGrid(GRID),
    learned_grid.LearnedGrid((2, 5)),
    waves.SinCos2D(fractional_side=4.0),
    row_column.RowColumn((3, 4)),
  ],
  ids=lambda p: f"{type(p).__name__}{getattr(p, 'size', '')}",
)
def test_taken_is_as_computed(position):
  rng = np.random.default_rng(0)
  params = {
    name: jnp.asarray(rng.normal(size=shape), jnp.float32)
    for name, (_, shape) in position.tables(16).items()
  }
  cells = np.stack([rng.permutation(12)[:5] for _ in range(3)])
  coords = jnp.asarray(np.stack(np.divmod(cells, 4), axis=-1), jnp.int32)
  grid_hw = jnp.broadcast_to(jnp.array(GRID), coords.shape)
  weights = rng.normal(size=(3, 5, 16)).astype(np.float32)

  def read(position):
    def total(params):
      found = position(params, coords, grid_hw, 16)
      return (weights * found).sum(), found

    return jax.jit(jax.grad(total, has_aux=True))(params)

  (slopes, taken), (wanted, computed) = map(
    read, (OfWholeGrid(position, GRID), position)
  )
  # float32 sums of a few numbers of about 1.
  near = {"rtol": 0, "atol": 3e-6}
  np.testing.assert_allclose(taken, computed, **near)
  for name, x in slopes.items():
    np.testing.assert_allclose(x, wanted[name], err_msg=name, **near)
