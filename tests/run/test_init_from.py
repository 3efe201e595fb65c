"""Runs that start from a checkpoint."""

import json
import math
import shutil

import numpy as np
import pytest

from flexivit_jax.checkpoints import load, save
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.run import open as open_lib
from tests import runs
from tests.run import whole_runs


@pytest.fixture(scope="module")
def timm(tmp_path_factory):
  """The weights of a shared run as timm keeps them. Not to be written to."""
  run = runs.trained("labels", runs.shared_directory(tmp_path_factory))
  path = tmp_path_factory.mktemp("timm") / "vit"
  save.save(load.read(run), path, "timm")
  return path


def _prepare(*overrides):
  lines = []
  run = open_lib.prepare(
    whole_runs.experiment("labels", *overrides),
    lambda text: lines.extend(text.split("\n")),
  )
  return run, lines


def _parameters(run):
  return whole_runs.by_path(run.init_state().params)


def test_parameters_are_the_checkpoints(timm):
  run, lines = _prepare(f"init_from.checkpoint={timm}")
  whole_runs.assert_same(_parameters(run), load.read(timm).arrays)
  assert lines[0] == f"starting from timm safetensors: {timm}"
  assert run.record["init_from"] == lines
  # Taken: a second model in memory would be for nothing.
  assert run.initial == {}


def test_what_is_not_loaded_is_initialised_as_ever(timm):
  wanted = load.read(timm).arrays
  run, lines = _prepare(
    f"init_from.checkpoint={timm}",
    "init_from.dont_load=('head/.*','embedding/.*')",
    "model.num_classes=20",
  )
  found = _parameters(run)
  fresh = _parameters(_prepare("model.num_classes=20")[0])
  for name, x in found.items():
    left = name.startswith(("head/", "embedding/"))
    np.testing.assert_array_equal(x, fresh[name] if left else wanted[name])
  assert lines[-1] == (
    "  not loaded, freshly initialised: embedding/bias, embedding/kernel, "
    "head/bias, head/kernel"
  )


@pytest.mark.parametrize(
  ("overrides", "text"),
  [
    (("checkpoint=nowhere/vit",), "nowhere/vit: no such file or directory"),
    (("step=3", "checkpoint={}"), "{}: only a run's directory has steps"),
    (("dont_load=('head',)",), "checkpoint must be given"),
    (("checkpoint={}", "dont_load=('head(',)"), "dont_load has 'head('"),
  ],
)
def test_refusals(timm, overrides, text):
  given = [f"init_from.{x.replace('{}', str(timm))}" for x in overrides]
  with pytest.raises(ConfigError) as caught:
    _prepare(*given)
  wanted = f"config.init_from: {text.replace('{}', str(timm))}"
  assert str(caught.value).startswith(wanted)


def test_another_number_of_classes_is_refused(timm):
  with pytest.raises(ConfigError, match=r"10 classes.*20.*dont_load=\('head"):
    _prepare(f"init_from.checkpoint={timm}", "model.num_classes=20")


@pytest.mark.slow
def test_a_run_needs_its_checkpoint_once(timm, here, tmp_path):
  source, workdir = tmp_path / "vit", tmp_path / "run"
  shutil.copytree(timm, source)

  def arguments(workdir, *overrides):
    return whole_runs.arguments("labels", workdir, *overrides)

  given = f"init_from.checkpoint={source}"
  first = f"starting from timm safetensors: {source}"
  tried = here("train.py", *arguments(tmp_path / "no", given), "--dry_run")
  assert tried.returncode == 0, tried.stderr
  assert tried.stdout.splitlines()[0] == first
  done = here("train.py", *arguments(workdir, given))
  assert done.returncode == 0, done.stderr
  # A fresh head gives zeros, so the loss of chance, on the first batch.
  assert abs(whole_runs.rows(workdir)[0]["loss"] - math.log(10)) > 1e-3
  shutil.rmtree(source)
  shutil.rmtree(workdir / "checkpoints" / "6")
  again = here("train.py", *arguments(workdir, given))
  assert again.returncode == 0, again.stderr
  assert "resuming after step 3 of 6" in again.stdout
  assert "starting from" not in again.stdout
  record = json.loads((workdir / "config.json").read_text())
  assert record["init_from"][0] == first
  # Before the first checkpoint of its own, it is needed.
  gone = here("train.py", *arguments(tmp_path / "other", given))
  assert gone.returncode == 2
  assert f"config.init_from: {source}: no such file" in gone.stderr
  assert not (tmp_path / "other").exists()
