"""Position embeddings: those of the model itself, cosines in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.analysis import positions
from flexivit_jax.core.tokens import patchify
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import (
  learned_grid,
  rotary,
  row_column,
  waves,
)
from flexivit_jax.nn.positions import position as position_lib

ADDED = {
  "learned_grid": learned_grid.LearnedGrid((3, 4)),
  "sincos2d": waves.SinCos2D(),
  "sincos2d of fractions": waves.SinCos2D(fractional_side=4.0),
  "fourier": waves.Fourier(),
  "rows + columns": row_column.RowColumn((6, 7), first=1),
  "rows * columns of fractions": row_column.RowColumn(
    (3, 4), "product", "fractional"
  ),
  "rows beside columns, interpolated": row_column.RowColumn(
    (3, 4), "stack", "interpolated"
  ),
  "joint_table": row_column.JointTable((5, 6)),
}


def random_tables(position, width=16):
  rng = np.random.default_rng(0)
  return {
    name: rng.normal(size=shape).astype(np.float32)
    for name, (_, shape) in position.tables(width).items()
  }


@pytest.mark.slow
@pytest.mark.parametrize("name", ADDED)
def test_embeddings_are_what_the_model_adds(name):
  model = vit.ViT(
    size=encoder.Size(16, 1, 32, 2),
    position=ADDED[name],
    pool=pooling.Gap(),
    kernel_hw=(2, 2),
    num_classes=0,
  )
  tokens = patchify(jnp.zeros((1, 10, 12, 3), jnp.uint8), (2, 2))
  params = model.init(jax.random.key(0), tokens)["params"]
  outputs = model.apply({"params": params}, tokens)
  flat = {
    "/".join(x.key for x in path): np.asarray(value)
    for path, value in jax.tree_util.tree_leaves_with_path(params)
  }
  added = (outputs.embedded - outputs.stem).reshape(5, 6, 16)
  found = positions.embeddings(model.position, flat, (5, 6), 16)
  # A sum with numbers of order 1 and its difference, in float32.
  np.testing.assert_allclose(found, added, rtol=0, atol=1e-6)
  assert np.abs(added).max() > 0.1


def test_cosines_of_a_stored_table():
  position = learned_grid.LearnedGrid((3, 4))
  arrays = random_tables(position)
  found = positions.similarity(position, arrays, (3, 4), 16)
  table = arrays["pos_embedding"].reshape(3, 4, 16).astype(np.float64)
  for i, j, k, l in np.ndindex(3, 4, 3, 4):
    a, b = table[i, j], table[k, l]
    expected = a @ b / np.sqrt((a @ a) * (b @ b))
    # The table passes through products of float32.
    assert found.cosines[i, j, k, l] == pytest.approx(expected, abs=1e-6)
  assert found.how == "stored"


def test_cosines_of_sincos2d_depend_on_the_distance_alone():
  found = positions.similarity(waves.SinCos2D(), {}, (6, 5), 32)
  omega = 10_000.0 ** -(np.arange(8) / 7)

  def along(distance):  # of one axis: sin sin + cos cos
    return np.mean(np.cos(distance * omega))

  for i, j, k, l in np.ndindex(6, 5, 6, 5):
    expected = (along(i - k) + along(j - l)) / 2
    assert found.cosines[i, j, k, l] == pytest.approx(expected, abs=1e-6)
  assert found.cross > 0.05


@pytest.mark.parametrize(
  ("position", "stored", "how"),
  [
    (learned_grid.LearnedGrid((3, 4)), (3, 4), "interpolated"),
    (row_column.JointTable((3, 4)), (3, 4), "part of the table"),
    (row_column.RowColumn((3, 4)), (3, 4), "part of the table"),
    (row_column.RowColumn((4, 5), first=1), (3, 4), "part of the table"),
    (row_column.RowColumn((3, 4), read="interpolated"), (3, 4), "interpolated"),
    (row_column.RowColumn((3, 4), read="fractional"), None, "interpolated"),
    (waves.SinCos2D(), None, "computed"),
    (waves.Fourier(), None, "computed"),
  ],
)
def test_what_is_stored(position, stored, how):
  assert positions.stored_grid(position) == stored
  assert positions.reading(position, (2, 2)) == how
  if stored:
    assert positions.reading(position, stored) == "stored"


@pytest.mark.parametrize(
  ("position", "text"),
  [
    (position_lib.NoPosition(), "NoPosition adds nothing to the patches: only"),
    (rotary.Rotary(), "Rotary adds nothing to the patches: only learned"),
    (row_column.JointTable((3, 4)), "4x4 patches are more than the 3x4 "),
  ],
)
def test_refusals(position, text):
  with pytest.raises(ValueError, match=text):
    positions.similarity(position, random_tables(position), (4, 4), 16)
