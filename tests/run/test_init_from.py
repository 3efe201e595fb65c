"""Runs that start from a checkpoint."""

import json
import math
import shutil

import flax.traverse_util
import numpy as np
import pytest

from flexivit_jax.checkpoints import load, save
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.run import open as open_lib


@pytest.fixture(scope="module")
def timm(small_run, tmp_path_factory):
  """The small run's weights as timm keeps them."""
  path = tmp_path_factory.mktemp("timm") / "vit"
  save.save(load.read(small_run[0]), path, "timm")
  return path


def _flat(state):
  flat = flax.traverse_util.flatten_dict(state.params, sep="/")
  return {name: np.asarray(x) for name, x in flat.items()}


def _prepare(experiment):
  lines = []
  run = open_lib.prepare(
    experiment, lambda text: lines.extend(text.split("\n"))
  )
  return run, lines


def test_parameters_are_the_checkpoints(timm, small_experiment):
  wanted = load.read(timm).arrays
  run, lines = _prepare(small_experiment(f"init_from.checkpoint={timm}"))
  state = run.init_state()
  found = _flat(state)
  assert found.keys() == wanted.keys()
  for name, x in wanted.items():
    np.testing.assert_array_equal(found[name], x)
  assert lines[0] == f"starting from timm safetensors: {timm}"
  assert run.record["init_from"] == lines
  # Taken: a second model in memory would be for nothing.
  assert run.initial == {}


def test_what_is_not_loaded_is_initialised_as_ever(timm, small_experiment):
  wanted = load.read(timm).arrays
  run, lines = _prepare(
    small_experiment(
      f"init_from.checkpoint={timm}",
      "init_from.dont_load=('head/.*','embedding/.*')",
      "model.num_classes=20",
    )
  )
  fresh, _ = _prepare(small_experiment("model.num_classes=20"))
  found, fresh = _flat(run.init_state()), _flat(fresh.init_state())
  for name in found:
    left = name.startswith(("head/", "embedding/"))
    expected = fresh[name] if left else wanted[name]
    np.testing.assert_array_equal(found[name], expected)
  assert lines[-1] == (
    "  not loaded, freshly initialised: embedding/bias, embedding/kernel, "
    "head/bias, head/kernel"
  )


def test_another_storage_is_converted(timm, small_experiment):
  run, lines = _prepare(
    small_experiment(
      f"init_from.checkpoint={timm}",
      "model.kernel_hw=(40,36)",
      "model.position.size=(4,4)",
      "model.scan=True",
      "model.image_mean=(0.4,)",
    )
  )
  found = _flat(run.init_state())
  assert found["embedding/kernel"].shape[:2] == (40, 36)
  assert found["pos_embedding"].shape[1] == 16
  assert found["Transformer/encoderblock/LayerNorm_0/scale"].shape[0] == 1
  assert lines[-3:] == [
    "  normalisation of pixels: folded into the patch embedding",
    "  patch embedding: of 32x32, stored at 40x36",
    "  positions: interpolated from 7x7 to 4x4",
  ]


@pytest.mark.parametrize(
  ("overrides", "text"),
  [
    (
      ("init_from.checkpoint=nowhere/vit",),
      "config.init_from: nowhere/vit: no such file or directory",
    ),
    (
      ("init_from.checkpoint={}", "model.num_classes=20"),
      "config.init_from: the head of {} has 10 classes and the model's 20: to "
      "start with a fresh head, give dont_load=('head/.*',)",
    ),
    (
      ("init_from.checkpoint={}", "init_from.step=3"),
      "config.init_from: {}: only a run's directory has steps",
    ),
    (
      ("init_from.dont_load=('head',)",),
      "config.init_from: checkpoint must be given",
    ),
    (
      ("init_from.checkpoint={}", "init_from.dont_load=('head(',)"),
      "config.init_from: dont_load has 'head(', which is no pattern (missing "
      "), unterminated subpattern at position 4): give 'head/.*', say",
    ),
  ],
)
def test_refusals(timm, small_experiment, overrides, text):
  with pytest.raises(ConfigError) as caught:
    _prepare(small_experiment(*(x.replace("{}", str(timm)) for x in overrides)))
  assert str(caught.value) == text.replace("{}", str(timm))


@pytest.mark.slow
def test_a_run_needs_its_checkpoint_once(timm, command, small_config, tmp_path):
  source, workdir = tmp_path / "vit", tmp_path / "run"
  shutil.copytree(timm, source)
  arguments = small_config(
    f"init_from.checkpoint={source}",
    "total_steps=8",
    "save_every=4",
    "eval_every=4",
    "log_every=1",
  )
  tried = command("train.py", *arguments, "--dry_run")
  assert tried.returncode == 0, tried.stderr
  first = f"starting from timm safetensors: {source}"
  assert tried.stdout.splitlines()[0] == first
  done = command("train.py", *arguments, f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[0] == first
  record = json.loads((workdir / "config.json").read_text())
  assert record["init_from"][0] == first
  # A fresh head gives zeros, so the loss of chance, on the first batch.
  fresh = command(
    "train.py",
    *small_config("total_steps=4", "log_every=1"),
    f"--workdir={tmp_path}/fresh",
  )
  assert fresh.returncode == 0, fresh.stderr
  from_file, from_nothing = (
    json.loads((path / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    for path in (workdir, tmp_path / "fresh")
  )
  assert abs(from_nothing - math.log(10)) < 1e-6
  assert abs(from_file - math.log(10)) > 1e-3
  shutil.rmtree(source)
  shutil.rmtree(workdir / "checkpoints" / "8")
  again = command("train.py", *arguments, f"--workdir={workdir}")
  assert again.returncode == 0, again.stderr
  assert "resuming after step 4 of 8" in again.stdout
  assert "starting from" not in again.stdout
  record = json.loads((workdir / "config.json").read_text())
  assert record["init_from"][0] == first
  # Before the first checkpoint of its own, it is needed.
  gone = command("train.py", *arguments, f"--workdir={tmp_path}/other")
  assert gone.returncode == 2
  assert gone.stderr == (
    f"error: config.init_from: {source}: no such file or directory\n"
  )
  assert not (tmp_path / "other").exists()
