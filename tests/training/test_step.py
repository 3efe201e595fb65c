"""One step and many, on one device and on eight."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from flexivit_jax.core.metric import Metric
from flexivit_jax.core.tokens import Batch
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid
from flexivit_jax.tasks.classification import Supervised
from flexivit_jax.training import state as state_lib
from flexivit_jax.training import step as step_lib

TASK = Supervised()
PATCH = (4, 4)


def _model(dtype="float32", **changes):
  return vit.ViT(
    size=encoder.Size(16, 2, 32, 2),
    position=learned_grid.LearnedGrid((3, 3)),
    pool=pooling.Gap(),
    kernel_hw=(6, 6),
    num_classes=5,
    dtype=dtype,
    **changes,
  )


def _batch(step, rows=16):
  rng = np.random.default_rng(step)
  # Not all weights are 1: the devices hold different numbers of images.
  weights = (np.arange(rows) % 8 < 5).astype(np.float32)
  return Batch(
    inputs=rng.integers(0, 256, (rows, 12, 12, 3), np.uint8),
    labels=rng.integers(0, 5, (rows, 1), np.int32),
    weights=weights[:, None],
    index=np.arange(rows, dtype=np.int32)[:, None],
  )


def _params(model, dtype):
  params = TASK.init(model, jax.random.key(0), _batch(0).inputs, PATCH)
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.2, dtype), params
  )


def _run(model, params, tx, steps, devices):
  mesh = jax.make_mesh(
    (devices,), ("data",), axis_types=(AxisType.Auto,),
    devices=jax.devices()[:devices],
  )  # fmt: skip
  everywhere = NamedSharding(mesh, PartitionSpec())
  rows = NamedSharding(mesh, PartitionSpec("data"))
  measure = functools.partial(TASK.measure, model, patch_hw=PATCH)
  train_step = jax.jit(
    functools.partial(step_lib.train_step, measure=measure, tx=tx),
    in_shardings=(everywhere, everywhere, rows),
    out_shardings=(everywhere, everywhere),
  )
  state = state_lib.init_state(params, tx, seed=0)
  metrics = step_lib.zero_metrics(TASK.metrics)
  for i in range(steps):
    state, metrics = train_step(state, metrics, _batch(i))
  return state, metrics


def _largest_difference(a, b):
  differences = jax.tree.map(lambda x, y: np.abs(x - y).max(), a, b)
  return max(jax.tree.leaves(differences))


def test_gradients_on_eight_devices_equal_one_in_float64(float64):
  model = _model("float64")
  params = _params(model, jnp.float64)
  # A step of plain SGD with rate 1 moves by exactly the gradient.
  one, eight = (
    _run(model, params, optax.sgd(1.0), 1, devices)[0] for devices in (1, 8)
  )
  chex.assert_trees_all_close(eight.params, one.params, rtol=0, atol=1e-10)
  assert _largest_difference(params, one.params) > 0.1


def test_step_counts_and_folds_its_number_into_dropout():
  model = _model(dropout=0.5)
  params = _params(model, jnp.float32)
  # Rate 0: the parameters stay, so only the dropout draw can differ.
  tx = optax.sgd(0.0)
  measure = functools.partial(TASK.measure, model, patch_hw=PATCH)
  train_step = jax.jit(
    functools.partial(step_lib.train_step, measure=measure, tx=tx)
  )
  zero = step_lib.zero_metrics(TASK.metrics)
  start = state_lib.init_state(params, tx, seed=0)
  first, a = train_step(start, zero, _batch(0))
  _, again = train_step(start, zero, _batch(0))
  second, b = train_step(first, zero, _batch(0))
  assert (int(first.step), int(second.step)) == (1, 2)
  assert float(a["loss"]) == float(again["loss"])
  assert float(a["loss"]) != float(b["loss"])


def _walk(batches, learning_rate=1.0, offset=0.0):
  """States of SGD from ones, on the loss sum(params * batch) + offset."""

  def measure(params, batch, dropout_key):
    del dropout_key
    return {"loss": Metric((params * batch).sum() + offset, jnp.ones(()))}

  tx = optax.sgd(learning_rate)
  state = state_lib.init_state(jnp.ones(2), tx, seed=0)
  states = []
  for batch in batches:
    state, _ = step_lib.train_step(
      state, {}, jnp.asarray(batch), measure=measure, tx=tx
    )
    states.append(state)
  return states


def test_the_flag_turns_at_the_first_bad_step_and_stays():
  states = _walk([[1, 2], [1, 2], [np.nan, 0], [1, 2], [np.inf, 0]])
  finite = [s.finite for s in states]
  assert [bool(f.flag) for f in finite] == [True, True, False, False, False]
  # What is kept is of the step that turned it, not of the later ones.
  assert [int(f.step) for f in finite] == [0, 1, 2, 2, 2]
  assert np.isnan(finite[-1].loss)
  assert np.isnan(finite[-1].gradient_norm)


def test_every_kind_of_number_turns_the_flag():
  # A loss without a bound, whose gradient is finite.
  (loss,) = _walk([[1.0, 1.0]], learning_rate=0.0, offset=np.inf)
  assert np.isinf(loss.finite.loss)
  assert np.isfinite(loss.finite.gradient_norm)
  assert not loss.finite.flag
  # A gradient of 1e25 is finite, its norm is not.
  (gradient,) = _walk([[1e25, -1e25]], learning_rate=0.0)
  assert np.isfinite(gradient.finite.loss)
  assert np.isinf(gradient.finite.gradient_norm)
  assert not gradient.finite.flag
  # An update of 1e30 from a gradient of 1: parameters that no longer mean
  # anything must not be saved, though the next loss would be the first to tell.
  (update,) = _walk([[1.0, 1.0]], learning_rate=1e30)
  assert np.isfinite(update.finite.loss)
  assert np.isfinite(update.finite.gradient_norm)
  assert np.isinf(update.finite.update_norm)
  assert not update.finite.flag
