"""train.py with too little disk or memory, and with numbers too large."""

import json
import re
import resource
import sys

import pytest

from flexivit_jax.checkpoints import run_directory
from flexivit_jax.checkpoints.run_metrics import read_rows


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
  (line,) = done.stderr.strip().splitlines()
  assert re.fullmatch(
    rf"error: {disk}/run has 2\d\d\.\d KiB free, and room for two "
    r"checkpoints takes [\d.]+ (KiB|MiB): free some space, then the same "
    "command goes on",
    line,
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
  assert third.startswith(
    "to need less, in this order: --config.batch_size=500"
  )
  assert fourth.startswith("then: patches larger than 1x1 in config.patch_size")


def test_far_too_little_memory_is_told_before_compiling(
  here, small_config, tmp_path
):
  done = here(
    "train.py",
    *small_config("batch_size=1000000", "patch_size.choices=(1,)"),
    f"--workdir={tmp_path}",
  )
  assert done.returncode == 1, done.stdout
  first, *_, settings, _ = done.stderr.strip().splitlines()
  assert re.fullmatch(
    r"error: too little memory \([\d.]+ GiB\) for the train step: 1x1 patches, "
    "576 tokens per image, 1000000 images on 8 devices",
    first,
  )
  # What fits, not half.
  fits = re.search(r"--config.batch_size=(\d+)", settings)
  assert 0 < int(fits[1]) < 100_000
  assert "compiled" not in done.stdout


# Two steps of this, and attention computes inf - inf.
DIVERGING = (
  "optimizer.learning_rate=1e12",
  "optimizer.weight_decay=0.0",
  "optimizer.clip_norm=None",
  "patch_size.choices=(12,)",
)


def test_numbers_that_are_not_finite_end_the_run(run, tmp_path):
  done = run(
    tmp_path,
    *DIVERGING,
    "optimizer.schedule=constant",
    "save_every=1",
    "log_every=5",
  )
  assert done.returncode == 1
  first, second, third = done.stderr.strip().splitlines()
  found = re.fullmatch(
    r"error: step (\d+) was not finite \(seen after step (\d+)\): loss (\S+), "
    r"gradient norm (\S+), update norm (\S+), patch size (12x12), learning "
    r"rate 1e\+12",
    first,
  )
  assert found, first
  step = int(found[1])
  assert {"nan", "inf"} & set(found.groups()[2:5])
  assert 1 < step <= 5
  assert run_directory.steps(tmp_path)[-1] == step - 1
  assert second == (
    f"its images are in {tmp_path}/nonfinite.json; the checkpoint of step "
    f"{step - 1} is from before it"
  )
  assert third.startswith("the same command would come here again: give a low")
  saved = json.loads((tmp_path / "nonfinite.json").read_text())
  assert saved["step"] == step
  assert saved["patch_size"] == found[6]
  assert len(saved["images"]) == 16
  assert all(re.fullmatch(r"image \d+", name) for name in saved["images"])


def test_not_finite_is_seen_at_the_next_log_step(run, tmp_path):
  done = run(
    tmp_path,
    *DIVERGING,
    "optimizer.schedule=constant",
    "save_every=100",
    "eval_every=100",
    "log_every=7",
  )
  assert done.returncode == 1
  assert re.search(r"step \d was not finite \(seen after step 7\)", done.stderr)
  assert "; no checkpoint is from before it" in done.stderr
  assert run_directory.steps(tmp_path) == []
  assert read_rows(tmp_path / "metrics.jsonl") == []
