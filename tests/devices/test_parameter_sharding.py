"""FSDP: where arrays lie, the same step as data parallelism, and bytes."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from flexivit_jax.core.tokens import Batch
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.devices import parameter_sharding, placement
from flexivit_jax.devices.parameter_sharding import Fsdp, Replicated
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid
from flexivit_jax.run import memory_report
from flexivit_jax.run import open as open_lib
from flexivit_jax.tasks.classification import Supervised
from flexivit_jax.training import state as state_lib
from flexivit_jax.training import step as step_lib
from flexivit_jax.training.optimizer import AdamW
from flexivit_jax.training.schedules import Constant

TASK = Supervised()


@pytest.mark.parametrize(
  ("shape", "spec"),
  [
    ((64, 256), P(None, "data")),
    ((256, 64), P("data")),
    ((64, 64), P("data")),  # the first of equals
    ((12, 64, 100), P(None, "data")),  # 100 is longer, but 8 does not divide it
    ((3, 7, 100), P()),
    ((64,), P("data")),
    ((56,), P()),  # fewer than 60 numbers
    ((), P()),
  ],
)
def test_arrays_are_cut_along_their_longest_axis_that_divides(shape, spec):
  mesh = mesh_lib.make_mesh()
  assert Fsdp(min_size=60)(shape, mesh).spec == spec
  assert Replicated()(shape, mesh).spec == P()


def _model(**changes):
  fields = dict(
    size=encoder.Size(16, 2, 32, 2),
    position=learned_grid.LearnedGrid((3, 3)),
    pool=pooling.Gap(),
    kernel_hw=(6, 6),
    num_classes=5,
    dtype="float64",
  )
  return vit.ViT(**fields | changes)


def _batch():
  rng = np.random.default_rng(0)
  weights = (np.arange(32) % 8 < 5).astype(np.float32)
  return Batch(
    inputs=rng.integers(0, 256, (32, 12, 12, 3), np.uint8),
    labels=rng.integers(0, 5, (32, 1), np.int32),
    weights=weights[:, None],
    index=np.arange(32, dtype=np.int32)[:, None],
  )


def _step(model, where, **options):
  """The state after one step, and the shardings that it came with."""
  mesh, batch = mesh_lib.make_mesh(), _batch()
  params = TASK.init(model, jax.random.key(0), batch.inputs, (4, 4))
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.2), params
  )
  # eps 1: Adam's step shows the size of a gradient, not its sign alone.
  tx = AdamW(0.1, Constant(), weight_decay=0.1, clip_norm=1.0, eps=1.0).build(9)
  state = state_lib.init_state(params, tx, seed=0, ema=True)
  shapes = parameter_sharding.placed(state, where, mesh)
  at = jax.tree.map(lambda x: x.sharding, shapes)
  everywhere = placement.replicated(mesh)

  def measure(params, batch, **kwargs):
    params = parameter_sharding.gathered(params, at.params)
    return TASK.measure(model, params, batch, patch_hw=(4, 4), **kwargs)

  step = jax.jit(
    functools.partial(
      step_lib.train_step,
      measure=measure,
      tx=tx,
      ema=0.9,
      **options,
    ),
    in_shardings=(at, everywhere, placement.over_rows(mesh)),
    out_shardings=(at, everywhere),
  )
  metrics = step_lib.zero_metrics(TASK.metrics)
  new, metrics = step(jax.device_put(state, at), metrics, batch)
  assert jax.tree.map(lambda x: x.sharding, new) == at
  return params, new, metrics


@pytest.mark.parametrize(
  ("changes", "options"),
  [
    ({"size": encoder.Size(16, 1, 32, 2)}, {}),
    pytest.param(
      {"scan": True, "remat": True, "dropout": 0.1},
      {"accumulate": 2},
      marks=pytest.mark.slow,
    ),
  ],
)
def test_a_step_equals_data_parallelism_in_float64(changes, options, float64):
  model = _model(**changes)
  before, whole, m = _step(model, Replicated(), **options)
  _, cut, others = _step(model, Fsdp(min_size=16), **options)
  is_cut = [x.sharding.spec != P() for x in jax.tree.leaves(cut.params)]
  assert sum(is_cut) > len(is_cut) / 2
  chex.assert_trees_all_close(
    (cut.params, cut.opt_state, cut.ema),
    (whole.params, whole.opt_state, whole.ema),
    rtol=0,
    atol=1e-10,
  )
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, whole.params)
  assert max(jax.tree.leaves(moved)) > 1e-3
  assert float(others["loss"]) == pytest.approx(float(m["loss"]), rel=1e-6)


WIDE = (
  "model.size={'name':'custom','width':64,'depth':2,'mlp_dim':256,"
  "'num_heads':4}",
  "patch_size.choices=(6,)",
  "ema=0.99",
  "validation=None",
)


def _compiled(small_experiment, *overrides):
  run = open_lib.prepare(small_experiment(*WIDE, *overrides), lambda line: None)
  (step,) = run.compile_steps(
    run.state_shapes, run.zero_metrics(), lambda line: None
  ).values()
  return run, step


@pytest.mark.slow
def test_bytes_on_each_device_fall_as_one_over_devices(small_experiment):
  run, whole = _compiled(small_experiment)
  same, cut = _compiled(
    small_experiment, "sharding={'name':'fsdp','min_size':1}"
  )
  batch = sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(placement.shapes(run.loader.example(), run.mesh))
  )
  a, b = (
    step.compiled.memory_analysis().argument_size_in_bytes - batch
    for step in (whole, cut)
  )
  # The key, counts, metrics, and the few arrays whose sides 8 does not divide.
  assert 1 / 8 <= b / a < 1.02 / 8
  # The compiled program's own shardings say the same of each part.
  (placed, *_), _ = cut.compiled.input_shardings
  for name in ("params", "opt_state", "ema"):
    where = jax.tree.leaves(getattr(placed, name))
    arrays = jax.tree.leaves(getattr(same.state_shapes, name))
    on_one = sum(
      math.prod(w.shard_shape(x.shape)) for w, x in zip(where, arrays)
    )
    assert on_one < 1.02 / 8 * sum(x.size for x in arrays), name
  # The estimate knows it.
  needed, before = (
    memory_report.estimate(same, (6, 6)),
    memory_report.estimate(run, (6, 6)),
  )
  assert needed.parameters < 1.02 / 8 * before.parameters
  assert needed.optimizer < 1.02 / 8 * before.optimizer
