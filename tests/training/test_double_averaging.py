"""What the explicit step sends, from its program; its numbers are tested in
tests/models/test_shared_rows.py."""

import functools

import jax
import numpy as np
import pytest

from benchmarks import collectives
from flexivit_jax.core.tokens import Batch
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid, waves
from flexivit_jax.nn.positions import position as position_lib
from flexivit_jax.tasks.classification import Supervised
from flexivit_jax.training import double_averaging

TASK = Supervised()
DATA, SEQ = 2, 4
BYTES = 4  # of a float32


def _trace(position, accumulate=1):
  """What a step sends, and the numbers of its parameters."""
  model = vit.ViT(
    size=encoder.Size(16, 3, 32, 4),
    position=position,
    pool=pooling.Gap(),
    kernel_hw=(2, 2),
    num_classes=5,
  )
  batch = Batch(
    inputs=np.zeros((8, 16, 16, 3), np.uint8),
    labels=np.zeros((8, 1), np.int32),
    weights=np.ones((8, 1), np.float32),
    index=np.zeros((8, 1), np.int32),
  )
  params = jax.eval_shape(
    lambda: TASK.init(model, jax.random.key(0), batch.inputs[:1], (2, 2))
  )
  step = functools.partial(
    double_averaging.gradients,
    functools.partial(TASK.measure, model, patch_hw=(2, 2)),
    accumulate=accumulate,
  )
  mesh = mesh_lib.make_mesh(mesh_lib.MeshSpec(DATA, SEQ))
  program = jax.make_jaxpr(mesh_lib.on_mesh(step, mesh))(
    params, batch, jax.random.key(0)
  )
  numbers = sum(x.size for x in jax.tree.leaves(params))
  return collectives.of_jaxpr(program), numbers


def _gradients_bytes(numbers):
  """A ring's: 2 n (P - 1) / P of what P devices add up."""
  return 2 * BYTES * numbers * (DATA * SEQ - 1) / (DATA * SEQ)


@pytest.mark.parametrize(
  "position",
  [
    learned_grid.LearnedGrid((8, 8)),
    waves.SinCos2D(),
    position_lib.NoPosition(),
  ],
  ids=["learned", "sincos", "none"],
)
def test_gradients_are_added_up_once(position):
  sent, numbers = _trace(position)
  gradients = _gradients_bytes(numbers)
  # Beside the gradients: pooled vectors, forward and backward, and the metrics'
  # sums and counts, of no more than 100 numbers a row.
  beside = sent.all_reduce.bytes - gradients
  assert 0 < beside < 8 * 100 * BYTES * 2
  # Of 3 layers, keys and values of 4 rows of 64 tokens of 16, in one piece.
  a = 4 * 64 * 16 * BYTES
  for kind in (sent.all_gather, sent.reduce_scatter):
    assert (kind.count, kind.bytes) == (3, 3 * 2 * a * (SEQ - 1) / SEQ)


def test_gradients_are_reduced_once_for_all_microbatches():
  position = learned_grid.LearnedGrid((8, 8))
  (once, numbers), (four, _) = (_trace(position, n) for n in (1, 4))
  gradients = _gradients_bytes(numbers)
  # What each microbatch sends for itself, pooled vectors, is of its rows.
  assert four.all_reduce.bytes - gradients < 1.01 * (
    once.all_reduce.bytes - gradients
  )
