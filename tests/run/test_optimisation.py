"""Runs with an average, microbatches, groups and shards, through train.py."""

import functools
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import flexivit_jax
import train
from flexivit_jax.checkpoints import load, run_directory, run_record, run_store
from flexivit_jax.checkpoints.run_metrics import read_rows
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.devices import placement
from flexivit_jax.evaluation import sweep
from flexivit_jax.run import open as open_lib
from flexivit_jax.run.state import restore_or_init

PACKED = (
  "patch_size.choices=(6,)",
  "batch_size=16",
  "train.resolution={'name':'sampled','low':12,'high':24}",
  "packing={'row_length':24,'max_images':4,'open_rows':20,"
  "'drop':{'name':'constant','rate':0.2}}",
  "validation=None",
)
ALL = (
  "patch_size.choices=(12,)",
  *("total_steps=8", "eval_every=4", "save_every=4", "log_every=1", "keep=9"),
  *("ema=0.99", "accumulate=2", "model.dropout=0.1"),
  *("optimizer.layer_decay=0.8", "optimizer.mu_dtype=bfloat16"),
  *("optimizer.decay_scale=schedule", "optimizer.weight_decay=0.001"),
  "optimizer.groups=({'pattern':'pos_embedding','multiplier':0.0},)",
  "validation.source.split=train[:80]",
)
FSDP = "sharding={'name':'fsdp','min_size':16}"


def arrays(workdir, step):
  with ocp.StandardCheckpointer() as checkpointer:
    return checkpointer.restore(workdir / "checkpoints" / str(step) / "arrays")


def numbers(workdir, step):
  leaves = jax.tree_util.tree_leaves_with_path(arrays(workdir, step))
  return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


def by_name(tree):
  """{name: leaf}, the same for a state and for what was saved of it."""
  name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {name(path): x for path, x in leaves}


def rows(workdir):
  return [
    {k: v for k, v in row.items() if not k.startswith("speed/")}
    for row in read_rows(workdir / "metrics.jsonl")
  ]


def cut_short(workdir, step):
  """As if the run had ended after that step."""
  for later in run_directory.steps(workdir):
    if later > step:
      (workdir / "checkpoints" / str(later)).rename(workdir / f"later{later}")


@pytest.fixture(scope="module")
def grid_run(small_experiment, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "grid"
  assert train.train(small_experiment(*ALL), workdir) == 0
  return workdir, numbers(workdir, 8), rows(workdir)


@pytest.mark.slow
def test_a_resumed_run_ends_alike_bit_for_bit(grid_run, small_experiment):
  workdir, before, lines = grid_run
  assert sum("['ema']" in name for name in before) > 10
  assert any(
    (numbers(workdir, 4)[name] != x).any() for name, x in before.items()
  )
  cut_short(workdir, 4)
  assert train.train(small_experiment(*ALL), workdir) == 0
  after = numbers(workdir, 8)
  assert after.keys() == before.keys()
  for name, x in after.items():
    np.testing.assert_array_equal(x, before[name], err_msg=name)
  assert rows(workdir) == lines


@pytest.mark.slow
def test_a_packed_run_resumes_bit_for_bit(small_experiment, tmp_path):
  experiment = small_experiment(*ALL[:-1], *PACKED, FSDP)
  assert train.train(experiment, tmp_path) == 0
  before, lines = numbers(tmp_path, 8), rows(tmp_path)
  cut_short(tmp_path, 4)
  assert train.train(experiment, tmp_path) == 0
  for name, x in numbers(tmp_path, 8).items():
    np.testing.assert_array_equal(x, before[name], err_msg=name)
  assert rows(tmp_path) == lines


def test_what_is_frozen_stays_and_has_no_state(grid_run):
  _, end, _ = grid_run
  names = [name for name in end if "pos_embedding" in name]
  assert sorted(names) == [
    "['state']['ema']['pos_embedding']",
    "['state']['params']['pos_embedding']",
  ]
  np.testing.assert_array_equal(*(end[name] for name in names))


def test_the_average_is_what_is_evaluated_and_loaded(
  grid_run, small_experiment
):
  workdir, end, lines = grid_run
  average = flexivit_jax.load(workdir, step=8)
  last = flexivit_jax.load(workdir, step=8, ema=False)
  for loaded, item in ((average, "ema"), (last, "params")):
    kernel = loaded.params["head"]["kernel"]
    np.testing.assert_array_equal(
      kernel, end[f"['state']['{item}']['head']['kernel']"]
    )
  assert (
    average.params["head"]["kernel"] != last.params["head"]["kernel"]
  ).any()
  assert ", step 8, moving average of the parameters\n" in repr(average)
  assert ", step 8\n" in repr(last)
  # Validation during training saw the average too.
  run = open_lib.prepare(small_experiment(*ALL), lambda line: None)
  programs = run.compile_evaluation(average.params, lambda line: None)
  (scores,) = [
    row for row in lines if row["step"] == 8 and "validation/top1" in row
  ]
  where = placement.replicated(run.mesh)
  for loaded, same in ((average, True), (last, False)):
    params = jax.device_put(loaded.params, where)
    found = sweep.sweep(
      {s: p.of(params) for s, p in programs.items()},
      [run.validation],
      lambda batch: placement.to_devices(batch, run.mesh),
    )
    for setting, x in found.items():
      saved = scores[f"validation/loss@{setting.short_name}"]
      assert (abs(x.answers.mean_loss - saved) < 1e-6) == same


@pytest.mark.slow
def test_a_run_goes_on_with_other_shards(grid_run, small_experiment, tmp_path):
  """Its checkpoints hold whole arrays, whatever the devices hold."""
  workdir, before, _ = grid_run
  copy = tmp_path / "run"
  shutil.copytree(workdir, copy)
  shutil.rmtree(copy / "checkpoints" / "8")
  assert train.train(small_experiment(*ALL, FSDP), copy) == 0
  for name, x in numbers(copy, 8).items():
    # Four steps of sums in another order, with bfloat16 moments, were 5e-6
    # apart; the steps moved parameters by 3e-3.
    np.testing.assert_allclose(x, before[name], rtol=0, atol=5e-5, err_msg=name)
  assert run_record.read(copy)["config"]["sharding"]["name"] == "fsdp"


@pytest.fixture(scope="module")
def sharded_run(small_experiment, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "sharded"
  assert train.train(small_experiment(*ALL, FSDP), workdir) == 0
  return workdir


@pytest.mark.slow
@pytest.mark.parametrize(
  ("devices", "where", "parts"),
  [(4, FSDP, 4), (8, "sharding='replicated'", 1), (2, FSDP, 2), (8, FSDP, 8)],
)
def test_a_sharded_run_goes_on_elsewhere(
  devices, where, parts, sharded_run, small_experiment, tmp_path, monkeypatch
):
  workdir = tmp_path / "run"
  shutil.copytree(sharded_run, workdir)
  shutil.rmtree(workdir / "checkpoints" / "8")
  mesh = jax.make_mesh(
    *((devices, 1), ("data", "seq")),
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
    devices=jax.devices()[:devices],
  )
  monkeypatch.setattr(mesh_lib, "make_mesh", lambda _: mesh)
  experiment = small_experiment(*ALL, where)
  run = open_lib.prepare(experiment, lambda line: None, resuming=True)
  checkpoints = run_store.Checkpoints(workdir)
  state, _ = restore_or_init(run, checkpoints, lambda line: None)
  checkpoints.close()
  run.loader.close()
  # Restored it is what was saved, bit for bit, on these devices.
  saved = by_name(arrays(sharded_run, 4)["state"])
  restored = by_name(state)
  assert saved.keys() == restored.keys()
  for path, x in restored.items():
    np.testing.assert_array_equal(x, saved[path], err_msg=path)
    assert x.sharding.mesh == mesh
  kernel = state.params["head"]["kernel"]
  for x in (kernel, state.ema["head"]["kernel"]):
    assert x.addressable_shards[0].data.size * parts == x.size
  # It goes on to the same end.
  assert train.train(experiment, workdir) == 0
  before = numbers(sharded_run, 8)
  for path, x in numbers(workdir, 8).items():
    if (devices, where) == (8, FSDP):
      np.testing.assert_array_equal(x, before[path], err_msg=path)
    # As above: sums in another order.
    np.testing.assert_allclose(x, before[path], rtol=0, atol=5e-5, err_msg=path)


@pytest.mark.parametrize(
  ("overrides", "text"),
  [
    (
      ("accumulate=3",),
      "config.accumulate: 16 images, 2 on each of 8 devices, are not 3 equal "
      "microbatches: give 1 or 2",
    ),
    (
      ("optimizer.groups=({'pattern':'haed/.*','multiplier':2.0},)",),
      "config.optimizer: the group 'haed/.*' matches no parameter: paths look "
      "like head/kernel",
    ),
    (
      ("ema=1.0",),
      "config.ema is 1.0: give more than 0 and less than 1, such as 0.9999",
    ),
    (
      (
        "patch_size={'name':'scheduled','choices':(12,6),'steps':(0,9000),"
        "'probabilities':((1.0,0.0),(0.0,1.0))}",
      ),
      "config.patch_size: steps is (0, 9000), but total_steps is 3000: the run "
      "would end before the last probabilities; give steps up to 3000, or "
      "train longer",
    ),
    (
      ("optimizer.schedule.cooldown_steps=2999",),
      "config.optimizer: a warm-up of 2 steps and a cooldown of 2999 overlap "
      "in 3000: lower schedule.warmup_steps or schedule.cooldown_steps, or "
      "train longer",
    ),
    (
      ("optimizer={'name':'retired','learning_rate':0.1,'was':'lion'}",),
      "config.optimizer: the optimiser lion is gone. Set optimizer.name=adamw",
    ),
  ],
)
def test_what_cannot_work_is_refused_at_once(overrides, text, small_experiment):
  with pytest.raises(ConfigError) as caught:
    open_lib.prepare(small_experiment(*overrides), lambda line: None)
  assert str(caught.value).startswith(text)


def test_adafactor_trains_with_shared_parameters(small_experiment, tmp_path):
  experiment = small_experiment(
    "total_steps=2",
    "validation=None",
    "patch_size.choices=(12,)",
    "optimizer={'name':'adafactor','learning_rate':0.001}",
    FSDP,
  )
  assert train.train(experiment, tmp_path) == 0
  assert load.read(tmp_path).spec.step == 2
