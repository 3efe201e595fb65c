"""train.py with too little disk or memory, and with numbers too large."""

import json
import re
import resource
import sys

import pytest

from flexivit_jax.checkpoints import run_directory
from tests.run import whole_runs


@pytest.fixture
def run(here, small_config):
  """Runs train.py in a directory."""

  def start(workdir, *overrides):
    overrides = ("total_steps=300", "eval_every=60", *overrides)
    return here("train.py", *small_config(*overrides), f"--workdir={workdir}")

  return start


def test_a_disk_without_room_for_two_checkpoints_is_refused(run, small_disk):
  disk = small_disk(256)
  done = run(disk / "run")
  assert done.returncode == 1
  assert re.match(
    rf"error: {disk}/run has 2\d\d\.\d KiB free, and room for two "
    r"checkpoints takes [\d.]+ (KiB|MiB): free some space",
    done.stderr,
  )
  assert "compiled" not in done.stdout
  assert not (disk / "run" / "config.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
@pytest.mark.slow
def test_out_of_memory_says_what_to_change(command, tmp_path):
  process = command(
    "train.py",
    "--config=configs/flexivit_digits.py",
    "--config.total_steps=200",
    "--config.batch_size=1000",
    "--config.patch_size.choices=(1,)",
    f"--workdir={tmp_path}",
    wait=False,
  )
  # A small run reserves 2 GiB, this one asks for 17 more at its first step.
  resource.prlimit(process.pid, resource.RLIMIT_AS, (6 << 30, 6 << 30))
  _, err = process.communicate(timeout=300)
  assert process.returncode == 1, err[-2000:]
  first, second, third, fourth = err.strip().splitlines()
  assert first == (
    "error: out of memory for the train step: 1x1 patches, 576 tokens per "
    "image, 1000 images on 1 device"
  )
  need = re.fullmatch(
    r"estimated need of each device: ([\d.]+) GiB: parameters 1.5 MiB, "
    r"optimizer 3.1 MiB, gradients 1.5 MiB, activations [\d.]+ GiB",
    second,
  )
  # XLA asked for 17.4e9 bytes, 16.2 GiB, in one piece.
  assert 16.2 < float(need[1]) < 25
  assert "--config.batch_size=500" in third
  assert "patches larger than 1x1" in fourth


def test_far_too_little_memory_is_told_before_compiling(run, tmp_path):
  done = run(tmp_path, "batch_size=1000000", "patch_size.choices=(1,)")
  assert done.returncode == 1, done.stdout
  assert re.match(
    r"error: too little memory \([\d.]+ GiB\) for the train step: 1x1 patches, "
    "576 tokens per image, 1000000 images on 8 devices",
    done.stderr,
  )
  # What fits, not half.
  fits = re.search(r"--config.batch_size=(\d+)", done.stderr)
  assert 0 < int(fits[1]) < 100_000
  assert "compiled" not in done.stdout


@pytest.mark.parametrize(("save_every", "log_every"), [(1, 5), (100, 7)])
def test_numbers_that_are_not_finite_end_the_run(
  save_every, log_every, run, tmp_path
):
  """Two steps of this learning rate, and attention computes inf - inf."""
  done = run(
    tmp_path,
    *("optimizer.learning_rate=1e12", "optimizer.weight_decay=0.0"),
    *("optimizer.clip_norm=None", "optimizer.schedule=constant"),
    *("patch_size.choices=(12,)", "eval_every=100"),
    *(f"save_every={save_every}", f"log_every={log_every}"),
  )
  assert done.returncode == 1
  first, second, third = done.stderr.strip().splitlines()
  found = re.fullmatch(
    r"error: step (\d+) was not finite \(seen after step (\d+)\): loss (\S+), "
    r"gradient norm (\S+), update norm (\S+), patch size 12x12, learning rate "
    r"1e\+12",
    first,
  )
  assert found, first
  assert {"nan", "inf"} & set(found.groups()[2:])
  step, seen = int(found[1]), int(found[2])
  assert 1 < step <= seen <= log_every
  assert f"its images are in {tmp_path}/nonfinite.json" in second
  if save_every == 1:
    assert run_directory.steps(tmp_path)[-1] == step - 1
    assert f"the checkpoint of step {step - 1} is from before it" in second
  else:
    assert run_directory.steps(tmp_path) == []
    assert "; no checkpoint is from before it" in second
    assert whole_runs.rows(tmp_path) == []
  assert "give a low" in third
  saved = json.loads((tmp_path / "nonfinite.json").read_text())
  assert (saved["step"], saved["patch_size"]) == (step, "12x12")
  assert len(saved["images"]) == 16
  assert all(re.fullmatch(r"image \d+", name) for name in saved["images"])
