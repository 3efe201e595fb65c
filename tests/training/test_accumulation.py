"""A batch in microbatches is the same step: grids, packed rows, metrics."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flexivit_jax.core.metric import Metric
from flexivit_jax.core.tokens import Batch
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid
from flexivit_jax.run import open as open_lib
from flexivit_jax.tasks import pack_metrics
from flexivit_jax.tasks.classification import Supervised
from flexivit_jax.training import state as state_lib
from flexivit_jax.training import step as step_lib

TASK = Supervised()
PACKED = (
  "batch_size=16",
  "train.resolution={'name':'sampled','low':10,'high':24}",
  "packing={'row_length':48,'max_images':6,'open_rows':20}",
  "validation=None",
  "test=None",
)


def model(**changes):
  fields = dict(
    size=encoder.Size(16, 1, 32, 2),
    position=learned_grid.LearnedGrid((3, 3)),
    pool=pooling.Gap(),
    kernel_hw=(6, 6),
    num_classes=10,
    dtype="float64",
  )
  return vit.ViT(**fields | changes)


def grids():
  rng = np.random.default_rng(0)
  # Microbatches, every fourth row, hold 4, 2, 3 and 1 images.
  weights = np.zeros(16, np.float32)
  weights[[0, 4, 8, 12, 1, 5, 2, 6, 10, 3]] = 1
  return Batch(
    inputs=rng.integers(0, 256, (16, 12, 12, 3), np.uint8),
    labels=rng.integers(0, 10, (16, 1), np.int32),
    weights=weights[:, None],
    index=np.arange(16, dtype=np.int32)[:, None],
  )


@pytest.fixture
def packed(small_experiment):
  run = open_lib.prepare(small_experiment(*PACKED), lambda line: None)
  batch = next(run.loader)
  counts = batch.weights.sum(axis=1).reshape(4, 4).sum(axis=0)
  assert len(set(counts)) > 1  # or a mean of means would do
  return batch


def params_for(model, batch, patch_hw):
  params = TASK.init(model, jax.random.key(0), batch.inputs, patch_hw)
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), params)


def one_step(model, batch, patch_hw, beside=None, **options):
  """Parameters moved by the gradient itself, and metrics."""
  tx = optax.sgd(1.0)
  state = state_lib.init_state(params_for(model, batch, patch_hw), tx, seed=0)
  names = (*TASK.metrics, *(beside or ()))
  step = jax.jit(
    functools.partial(
      step_lib.train_step,
      measure=functools.partial(TASK.measure, model, patch_hw=patch_hw),
      tx=tx,
      beside=beside,
      **options,
    )
  )
  return step(state, step_lib.zero_metrics(names), batch)


def assert_same_step(a, b):
  (state, metrics), (other, others) = a, b
  # Sums in another order in float64; Mean's start at 0 in float32.
  chex.assert_trees_all_close(state.params, other.params, rtol=0, atol=1e-12)
  assert metrics.keys() == others.keys()
  for name, mean in metrics.items():
    assert mean.count == others[name].count, name
    np.testing.assert_allclose(
      mean.total, others[name].total, rtol=1e-6, err_msg=name
    )
  for field in ("loss", "gradient_norm", "update_norm"):
    np.testing.assert_allclose(
      getattr(state.finite, field), getattr(other.finite, field), rtol=1e-6
    )


@pytest.mark.parametrize(
  ("accumulate", "images"), [(4, None), (4, 7.0), (16, None)]
)
def test_microbatches_of_grids_are_the_same_step(accumulate, images, float64):
  step = functools.partial(one_step, model(), grids(), (4, 4), images=images)
  whole, cut = step(), step(accumulate=accumulate)
  assert_same_step(cut, whole)
  assert cut[1]["loss"].count == 10


@pytest.mark.parametrize("images", [None, 100.0])
def test_microbatches_of_packed_rows_are_the_same_step(images, packed, float64):
  step = functools.partial(
    one_step,
    model(),
    packed,
    None,
    images=images,
    beside=pack_metrics.pack_report(packed),
  )
  whole, cut = step(), step(accumulate=4)
  assert_same_step(cut, whole)
  assert cut[1]["loss"].count == packed.weights.sum()
  assert cut[1]["pack/images_per_step"].count == 1


def test_each_microbatch_draws_its_own_dropout():
  seen = []

  def measure(params, batch, dropout_key):
    draw = jax.random.uniform(dropout_key)
    jax.debug.callback(lambda x: seen.append(float(x)), draw)
    return {"loss": Metric((params * batch.sum(axis=0)).sum(), jnp.float32(1))}

  tx = optax.sgd(1.0)
  state = state_lib.init_state(jnp.ones(2), tx, seed=0)
  for _ in range(2):
    state, _ = step_lib.train_step(
      state, {}, jnp.ones((8, 2)), measure=measure, tx=tx, accumulate=4
    )
  jax.effects_barrier()
  assert len(set(seen)) == 8


def test_a_batch_without_an_image_moves_nothing(float64):
  empty = grids()
  empty = Batch(empty.inputs, empty.labels, 0 * empty.weights, empty.index)
  state, metrics = one_step(model(), empty, (4, 4), accumulate=4)
  before = params_for(model(), empty, (4, 4))
  chex.assert_trees_all_equal(state.params, before)
  assert metrics["loss"].count == 0


@pytest.mark.parametrize("accumulate", [3, 8])
def test_microbatches_that_devices_cannot_share(accumulate):
  mesh = mesh_lib.make_mesh()
  text = f"32 images.* not {accumulate} equal microbatches: give 1 or 2 or 4"
  with pytest.raises(ValueError, match=text):
    mesh_lib.check_accumulation(accumulate, 32, mesh)
  mesh_lib.check_accumulation(4, 32, mesh)
