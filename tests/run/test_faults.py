"""train.py when things go wrong: real signals, kills, disks and damage.

Every run that goes on afterwards must end as if nothing had happened.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import train
from flexivit_jax.checkpoints import manifest, run_directory, run_store
from flexivit_jax.data.loading import eval_loader, loader
from tests.run import whole_runs
from tests.run.whole_runs import last_row, wait_for

slow = pytest.mark.slow
TOTAL = 180
LONG = (
  *(f"total_steps={TOTAL}", "eval_every=60", "save_every=20", "log_every=15"),
  "model.dropout=0.1",
)


@pytest.fixture(scope="module")
def long_run(command, small_config):
  """Starts the long run in a directory, as a process."""

  def start(workdir, *overrides, **kwargs):
    arguments = (*small_config(*LONG, *overrides), f"--workdir={workdir}")
    return command("train.py", *arguments, **kwargs)

  return start


@pytest.fixture(scope="module")
def uninterrupted(long_run, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
  done = long_run(workdir)
  assert done.returncode == 0, done.stderr
  return workdir


@pytest.fixture
def assert_resumes(uninterrupted, long_run):
  """Starts a run again: it ends as the uninterrupted one did."""

  def check(workdir, *overrides):
    done = long_run(workdir, *overrides)
    assert done.returncode == 0, done.stderr
    whole_runs.assert_same_end(workdir, uninterrupted, TOTAL)
    return done.stdout

  return check


def children(pid):
  """Its processes, whichever of its threads started them; Linux only."""
  tasks = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
  return [int(child) for path in tasks for child in path.read_text().split()]


def kill(process):
  """kill -9, and its workers must follow."""
  started = children(process.pid)
  process.kill()
  process.communicate(timeout=120)  # workers hold the pipes until they end
  deadline = time.monotonic() + 120
  for child in started:
    while pathlib.Path(f"/proc/{child}").exists():
      assert time.monotonic() < deadline, f"worker {child} outlived its parent"
      time.sleep(0.01)


@slow
def test_killed_three_times_equals_uninterrupted(
  assert_resumes, long_run, tmp_path
):
  """The first time in a save; tests/slow/test_killed_runs.py has each task."""

  def is_saving():
    return any((tmp_path / "checkpoints").glob("*.unfinished"))

  rng = np.random.default_rng(0)
  for attempt in range(3):
    process = long_run(tmp_path, "workers=2", wait=False)
    # Far from the end, which would come before the kill.
    at = min(last_row(tmp_path) + int(rng.integers(1, 30)), TOTAL - 60)
    if attempt == 0:
      wait_for(lambda: run_directory.steps(tmp_path) and is_saving(), process)
      assert len(children(process.pid)) >= 2 or sys.platform != "linux"
    else:
      wait_for(lambda at=at: last_row(tmp_path) >= at, process)
      time.sleep(float(rng.uniform(0, 0.05)))
    finished = run_directory.steps(tmp_path)
    assert TOTAL not in finished
    kill(process)
    assert run_directory.steps(tmp_path)[-1:] >= finished[-1:]  # none is lost
  out = assert_resumes(tmp_path, "workers=2")
  assert re.search(rf"resuming after step \d+ of {TOTAL}", out)
  assert not is_saving()


@slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_saves_at_the_next_step(
  name, assert_resumes, long_run, tmp_path
):
  """To the process; with its output closed; and to its workers as well."""
  number = signal.Signals[name]
  workers = "workers=2" if name == "SIGINT" else "workers=0"
  process = long_run(tmp_path, workers, wait=False, start_new_session=True)
  wait_for(lambda: last_row(tmp_path) >= 15, process)
  if name == "SIGHUP":
    process.stdout.close()  # lost output alone ends nothing
    wait_for(lambda: last_row(tmp_path) >= 45, process)
    process.send_signal(number)
    assert process.wait(timeout=300) == 129
    assert process.stderr.read() == ""
    process.stderr.close()
  else:
    if name == "SIGINT":  # as a terminal's Ctrl-C
      os.killpg(process.pid, number)
    else:
      process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 128 + number, err
    assert "error:" not in err
    saved = re.search(rf"{name}: saved after step (\d+) of {TOTAL};", out)
    assert run_directory.steps(tmp_path)[-1] == int(saved[1])
  # Nothing that was logged is lost.
  assert last_row(tmp_path) <= run_directory.steps(tmp_path)[-1] < TOTAL
  assert_resumes(tmp_path, workers)


def test_a_second_trainer_is_refused(here, small_config, tmp_path):
  with contextlib.closing(run_store.Checkpoints(tmp_path)):
    done = here("train.py", *small_config(), f"--workdir={tmp_path}")
  assert done.returncode == 1
  assert done.stderr == (
    f"error: another process trains in {tmp_path}: stop it, or give another "
    "--workdir\n"
  )
  assert not (tmp_path / "config.json").exists()


@slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_signal_while_a_batch_is_loaded_loses_none(
  moment, trained, tmp_path, monkeypatch
):
  real, calls = loader.TrainLoader.__next__, []

  def load(self):
    calls.append(self)
    if len(calls) == 4 and moment == "before":
      signal.raise_signal(signal.SIGTERM)
    batch = real(self)
    if len(calls) == 4 and moment == "after":
      signal.raise_signal(signal.SIGTERM)
    return batch

  experiment = whole_runs.experiment("labels")
  monkeypatch.setattr(loader.TrainLoader, "__next__", load)
  assert train.train(experiment, tmp_path / "cut") == 143
  assert 0 < run_directory.steps(tmp_path / "cut")[-1] < 6
  assert train.train(experiment, tmp_path / "cut") == 0
  whole_runs.assert_same_end(tmp_path / "cut", trained("labels"), 6)


@slow
def test_a_signal_during_an_evaluation_leaves_it_to_the_resumed_run(
  trained, tmp_path, monkeypatch
):
  real = eval_loader.EvalLoader.__iter__

  def batches(self):
    for i, batch in enumerate(real(self)):
      if i == 1:
        signal.raise_signal(signal.SIGTERM)
      yield batch

  experiment = whole_runs.experiment("labels")
  monkeypatch.setattr(eval_loader.EvalLoader, "__iter__", batches)
  assert train.train(experiment, tmp_path / "cut") == 143
  assert run_directory.steps(tmp_path / "cut")[-1] == 6
  rows = whole_runs.rows(tmp_path / "cut")
  assert not any("validation/top1" in row for row in rows)
  monkeypatch.undo()
  assert train.train(experiment, tmp_path / "cut") == 0
  whole_runs.assert_same_end(tmp_path / "cut", trained("labels"), 6)


def flip_a_bit(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 4
  path.write_bytes(content)


def test_a_damaged_checkpoint_is_named_and_the_one_before_resumed(
  trained, here, tmp_path
):
  workdir = trained("labels")
  whole = workdir.rename(tmp_path / "whole")
  workdir = trained("labels")
  directory = workdir / "checkpoints" / "6"
  files = [p for p in directory.rglob("d/*") if p.is_file()]
  largest = max(files, key=lambda p: p.stat().st_size)
  flip_a_bit(largest)
  done = here("train.py", *whole_runs.arguments("labels", workdir))
  assert done.returncode == 0, done.stderr
  first, second, third = done.stdout.splitlines()[:3]
  assert first.startswith(
    f"the checkpoint of step 6 is damaged: {largest} has changed: SHA-256 "
  )
  assert second == f"it was put aside as {directory}.damaged"
  assert third == "resuming after step 3 of 6"
  whole_runs.assert_same_end(workdir, whole, 6)


def test_a_state_of_other_batches_is_refused(trained, here):
  workdir = trained("labels")
  for step in run_directory.steps(workdir):
    directory = workdir / "checkpoints" / str(step)
    path = directory / "progress.json"
    saved = json.loads(path.read_text())
    saved["loader"]["drawn_from"]["seed"] = 7
    path.write_text(json.dumps(saved))
    manifest.write(directory)
  done = here("train.py", *whole_runs.arguments("labels", workdir))
  assert done.returncode == 2
  assert "step 6: its batches were drawn otherwise (seed: 7 -> 0)" in (
    done.stderr
  )


@slow
def test_a_damaged_compilation_cache_changes_nothing(command, tmp_path):
  cache = tmp_path / "cache"

  def run(name):
    arguments = whole_runs.arguments("labels", tmp_path / name)
    kwargs = {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    done = command("train.py", *arguments, **kwargs)
    assert done.returncode == 0, done.stderr
    return whole_runs.rows(tmp_path / name)

  before = run("first")
  entries = sorted(p for p in cache.iterdir() if not p.name.endswith("-atime"))
  assert len(entries) >= 2
  for i, path in enumerate(entries):
    flip_a_bit(path)
    if i % 2:
      path.write_bytes(path.read_bytes()[:100])
  assert run("second") == before


@slow
def test_a_lost_worker_ends_the_run_and_nothing_is_lost(
  assert_resumes, long_run, tmp_path
):
  process = long_run(tmp_path, "workers=2", wait=False)
  wait_for(lambda: last_row(tmp_path) >= 15, process)
  workers = [
    pid
    for pid in children(process.pid)
    if b"spawn_main" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
  ]
  subprocess.run(["kill", "-9", str(workers[0])], check=True)  # noqa: S603, S607
  _, err = process.communicate(timeout=300)
  assert process.returncode == 1, err
  # What may follow is Python's tracker, which frees the worker's memory.
  line, *_ = err.strip().splitlines()
  assert "Traceback" not in err
  assert line.startswith("error: a data worker was lost: Worker process ")
  assert "exit code -9" in line
  assert last_row(tmp_path) <= run_directory.steps(tmp_path)[-1] < TOTAL
  assert_resumes(tmp_path)  # on no workers: the batches are the same


@slow
def test_a_full_disk_ends_the_run_and_the_last_step_is_good(
  assert_resumes, long_run, small_disk
):
  disk = small_disk(8 << 10)
  process = long_run(disk / "run", wait=False)
  wait_for(lambda: run_directory.steps(disk / "run"), process)
  with (
    contextlib.suppress(OSError),  # full
    (disk / "filler").open("wb", buffering=0) as file,
  ):
    while True:
      file.write(bytes(1 << 12))
  out, err = process.communicate(timeout=300)
  assert process.returncode == 1, out
  assert len(err.splitlines()) <= 3, err
  assert str(disk / "run") in err
  # Whichever comes first: a checkpoint, or a row of metrics.jsonl.
  assert re.search(r"[\d.]+ (bytes|KiB|MiB) free", err), err
  (disk / "filler").unlink()
  assert "damaged" not in assert_resumes(disk / "run")
