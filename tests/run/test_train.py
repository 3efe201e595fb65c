"""train.py: what it writes as a process, and what it refuses."""

import json
import re
import shutil

import jax
import numpy as np
import pytest

import train
from flexivit_jax.checkpoints import run_directory
from flexivit_jax.checkpoints.run_metrics import read_rows
from flexivit_jax.config import build
from flexivit_jax.core import cut as cut_lib
from flexivit_jax.tasks import classification


def test_a_run_writes_what_is_documented(small_run):
  workdir, done = small_run
  saved = json.loads((workdir / "config.json").read_text())
  assert saved["classes"] == [str(i) for i in range(10)]
  assert saved["provenance"]["versions"]["jax"] == jax.__version__
  assert saved["data"]["train"]["images"] == 1097
  assert saved["data"]["validation"]["images"] == 200
  experiment = build.from_plain(saved["config"])
  assert experiment.model.num_classes == 10
  rows = read_rows(workdir / "metrics.jsonl")
  logs = [r for r in rows if "loss" in r]
  assert [r["step"] for r in logs] == [5, 10, 15, 20, 25, 30]
  for row in logs:
    assert {"accuracy", "gradient_norm", "learning_rate"} <= row.keys()
    assert row["speed/images_per_s"] > 0
  evaluations = [r for r in rows if "validation/top1" in r]
  assert [r["step"] for r in evaluations] == [10, 20, 30]
  for row in evaluations:
    sizes = [row[f"validation/top1@{p}"] for p in (6, 12)]
    assert row["validation/top1"] == pytest.approx(np.mean(sizes))
  # The two latest, and the best; the later of equals.
  scores = {r["step"]: r["validation/top1"] for r in evaluations}
  best = max(scores, key=lambda step: (scores[step], step))
  assert run_directory.steps(workdir) == sorted({20, 30, best})
  # Plain lines where there is no terminal: every size, every log row.
  assert done.stdout.count("compiled train step") == 2
  assert "step 30/30  loss" in done.stdout
  assert "\r" not in done.stderr


def test_the_loss_falls(small_run):
  rows = [r for r in read_rows(small_run[0] / "metrics.jsonl") if "loss" in r]
  # Fresh heads start at log 10.
  assert rows[0]["loss"] == pytest.approx(np.log(10), abs=0.2)
  assert rows[-1]["loss"] < rows[0]["loss"]


def test_a_finished_run_has_nothing_left_to_do(
  small_run, command, small_run_config
):
  workdir, _ = small_run
  before = (workdir / "metrics.jsonl").read_text()
  done = command("train.py", *small_run_config, f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  assert f"{workdir} is finished: it has all 30 steps" in done.stdout
  assert "compiled" not in done.stdout
  assert (workdir / "metrics.jsonl").read_text() == before


def test_each_patch_size_is_traced_once(
  small_experiment, monkeypatch, tmp_path
):
  traced = []
  cut = cut_lib.to_tokens

  def counting(inputs, patch_hw):
    traced.append(patch_hw)
    return cut(inputs, patch_hw)

  monkeypatch.setattr(classification, "to_tokens", counting)
  experiment = small_experiment("total_steps=12", "eval_every=4", "log_every=2")
  train.train(experiment, tmp_path)
  sizes = [experiment.patch_size(i, 0) for i in range(12)]
  assert set(sizes) == {(6, 6), (12, 12)}  # both were used, more than once
  # Parameters at one size, checked and then made; the memory at the costliest;
  # the step and the evaluation at both.
  assert traced[:3] == [(6, 6)] * 3
  assert traced[3:] == [(6, 6), (12, 12), (6, 6), (12, 12)]


def test_another_config_in_the_same_directory_is_refused(
  small_run, here, small_config
):
  workdir, _ = small_run
  overrides = ("total_steps=31", "eval_every=15")
  done = here("train.py", *small_config(*overrides), f"--workdir={workdir}")
  assert done.returncode == 2
  (line,) = done.stderr.strip().splitlines()
  assert "started otherwise (total_steps: 30 -> 31)" in line
  assert "another --workdir" in line


def test_other_data_in_the_same_directory_is_refused(
  small_run, here, small_run_config, tmp_path
):
  workdir = tmp_path / "copy"
  shutil.copytree(small_run[0], workdir)
  saved = json.loads((workdir / "config.json").read_text())
  saved["data"]["train"]["fingerprint"] = "0" * 16
  (workdir / "config.json").write_text(json.dumps(saved))
  done = here("train.py", *small_run_config, f"--workdir={workdir}")
  assert done.returncode == 2
  assert "train.fingerprint: '0000000000000000' -> " in done.stderr


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("--config.patch_size.choices=(6,7)", "24x24 pixels is not a whole number"),
    ("--config.batch_size=12", "config.batch_size: 12 images or packed"),
    ("--config.eval_batch_size=0", "config.eval_batch_size is 0: give"),
    ("--config.train.source.split=val", "config.train: digits have no split"),
    ("--config.validation.transforms=('flip',)", "config.validation: Flip is"),
    ("--config.optimizer.schedule.warmup_steps=99999", "config.optimizer: war"),
    ("--config.model.num_classes=3", "config.model.num_classes is 3"),
    ("--config.model.channels=1", "config.model.channels is 1, and the pict"),
    ("--config.model.size.num_heads=0", "config.model.size: num_heads is 0"),
    ("--config.model.kernel_hw=(0,0)", "kernel_hw (0, 0): give (height, w"),
    ("--config.test.source.split=val", "config.test: digits have no split"),
    ("--workdir=README.md", "--workdir README.md is a file"),
    (
      "--workdir=",
      "--workdir is missing: give the run a directory of this machine, or a "
      "mounted one",
    ),
    (
      "--workdir=gs://bucket/run",
      "--workdir gs://bucket/run: give the run a directory of this machine",
    ),
    ("--config.lr=1", "config.lr: no such key"),
  ],
)
def test_what_cannot_work_is_refused_before_anything_is_compiled(
  argument, message, here, small_config, tmp_path
):
  workdir = f"--workdir={tmp_path / 'run'}"
  done = here("train.py", *small_config(), workdir, argument)
  assert done.returncode == 2, done.stderr
  assert message in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1
  assert "compiled" not in done.stdout
  assert not (tmp_path / "run").exists()


@pytest.mark.slow  # test_run_record.py has the same without a run
def test_a_run_without_a_checkpoint_can_be_started_otherwise(
  small_run, command, small_config, tmp_path
):
  shutil.copy(small_run[0] / "config.json", tmp_path / "config.json")
  arguments = (*small_config("total_steps=3"), f"--workdir={tmp_path}")
  done = command("train.py", *arguments)
  assert done.returncode == 0, done.stderr
  assert "resuming" not in done.stdout
  saved = json.loads((tmp_path / "config.json").read_text())
  assert saved["config"]["total_steps"] == 3


@pytest.mark.slow
def test_compiled_programs_are_kept_between_runs(
  command, small_config, tmp_path
):
  for name in ("first", "second"):
    done = command(
      "train.py",
      *small_config("total_steps=3"),
      f"--workdir={tmp_path / name}",
      JAX_COMPILATION_CACHE_DIR=None,
      XDG_CACHE_HOME=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    cache = tmp_path / "flexivit_jax" / "xla"
    entries = {p.name for p in cache.iterdir()}
    entries = {name for name in entries if not name.endswith("-atime")}
    if name == "first":
      kept = entries
  assert len(kept) >= 2  # the train step at both sizes
  assert entries == kept


@pytest.mark.slow
def test_images_per_second_of_a_resumed_run_count_its_own_steps(
  command, small_config, tmp_path
):
  arguments = (
    *small_config(
      "total_steps=400", "save_every=390", "log_every=400", "eval_every=390"
    ),
    f"--workdir={tmp_path}",
  )
  assert command("train.py", *arguments).returncode == 0
  (whole,) = [r for r in read_rows(tmp_path / "metrics.jsonl") if "loss" in r]
  shutil.rmtree(tmp_path / "checkpoints" / "400")
  assert command("train.py", *arguments).returncode == 0
  (resumed,) = [r for r in read_rows(tmp_path / "metrics.jsonl") if "loss" in r]
  assert resumed["loss"] == whole["loss"]
  # Counting the 390 steps before would give 40 times as much.
  assert resumed["speed/images_per_s"] < 10 * whole["speed/images_per_s"]


def test_a_dry_run_tells_the_cost_trains_on_a_batch_and_writes_nothing(
  command, small_config, tmp_path
):
  before = set(tmp_path.iterdir())
  workdir = tmp_path / "run"
  done = command(
    "train.py", *small_config("seed=3"), "--dry_run", f"--workdir={workdir}"
  )
  assert done.returncode == 0, done.stderr
  assert set(tmp_path.iterdir()) == before
  lines = done.stdout.splitlines()
  assert "config.seed = 3" in lines
  assert "config.model.num_classes = 10" in lines  # resolved by the data
  assert any(
    re.fullmatch(
      "[0-9,]+ parameters, 3000 steps of 16 images of 24x24 px on 1 cpu device",
      line,
    )
    for line in lines
  )
  head = next(i for i, line in enumerate(lines) if line.startswith("patch "))
  table = [line.split() for line in lines[head + 1 : head + 3]]
  assert [row[:2] for row in table] == [["6", "16"], ["12", "4"]]
  # 2 px more than halves the patches: so the cost, and the memory for them.
  assert float(table[0][2]) > 2 * float(table[1][2])
  assert "compiled train step: 6x6 patches" in done.stdout
  assert re.search(r"one step at 6: .*loss 2\.3", done.stdout)
  assert re.search(r"one evaluation batch at 6: .*loss 2\.3", done.stdout)


def test_a_dry_run_needs_no_workdir_and_refuses_what_cannot_work(
  here, small_config
):
  done = here("train.py", *small_config("patch_size.choices=(7,)"), "--dry_run")
  assert done.returncode == 2
  (line,) = done.stderr.strip().splitlines()
  assert "24x24 pixels is not a whole number of 7x7 patches" in line
  assert done.stdout == ""


def test_a_dry_run_tells_of_numbers_that_are_not_finite(here, small_config):
  done = here(
    "train.py",
    *small_config(
      "patch_size.choices=(12,)",
      "validation=None",
      "optimizer.learning_rate=1e30",
      "optimizer.weight_decay=0.0",
      "optimizer.schedule=constant",
    ),
    "--dry_run",
  )
  assert done.returncode == 1
  assert "error: the first step is not finite: loss 2.3" in done.stderr


def test_a_run_without_a_workdir_is_refused(here, small_config):
  done = here("train.py", *small_config())
  assert done.returncode == 2
  assert done.stderr.startswith(
    "error: --workdir is missing: give the run a dir"
  )
