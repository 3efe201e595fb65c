"""train.py when things go wrong: real signals, kills, disks and damage.

Every run that goes on afterwards must end as if nothing had happened.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import train
from flexivit_jax.checkpoints import manifest, run_directory
from flexivit_jax.checkpoints.run_metrics import read_rows
from flexivit_jax.data.loading import eval_loader, loader

TOTAL = 180
LONG = (
  f"total_steps={TOTAL}",
  "eval_every=60",
  "save_every=20",
  "log_every=15",
  "model.dropout=0.1",
)


def final(workdir, step=TOTAL):
  """Every number of the last checkpoint, and the rows without speeds."""
  with ocp.StandardCheckpointer() as checkpointer:
    arrays = checkpointer.restore(
      workdir / "checkpoints" / str(step) / "arrays"
    )
  flat = {
    jax.tree_util.keystr(path): np.asarray(x)
    for path, x in jax.tree_util.tree_leaves_with_path(arrays)
  }
  rows = [
    {k: v for k, v in row.items() if not k.startswith("speed/")}
    for row in read_rows(workdir / "metrics.jsonl")
  ]
  return flat, rows


@pytest.fixture(scope="module")
def long_run(command, small_config):
  """Starts the long run in a directory; or gives the arguments for it."""

  def start(workdir, *overrides, **kwargs):
    arguments = (*small_config(*LONG, *overrides), f"--workdir={workdir}")
    return command("train.py", *arguments, **kwargs)

  return start


@pytest.fixture(scope="module")
def uninterrupted(long_run, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
  done = long_run(workdir)
  assert done.returncode == 0, done.stderr
  return final(workdir)


def assert_ends_alike(workdir, expected, step=TOTAL):
  flat, rows = final(workdir, step)
  expected_flat, expected_rows = expected
  assert rows == expected_rows
  assert flat.keys() == expected_flat.keys()
  for name, x in flat.items():
    np.testing.assert_array_equal(x, expected_flat[name], err_msg=name)


def wait_for(process, happened, seconds=300):
  """Until something happened, or the process ended; whether it happened."""
  deadline = time.monotonic() + seconds
  while not happened():
    if process.poll() is not None:
      return happened()
    assert time.monotonic() < deadline, process.args
    time.sleep(0.002)
  return True


def last_row(workdir):
  rows = read_rows(workdir / "metrics.jsonl")
  return rows[-1]["step"] if rows else 0


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


def is_saving(workdir):
  return any((workdir / "checkpoints").glob("*.unfinished"))


@pytest.mark.slow
def test_other_steps_would_be_noticed(uninterrupted):
  """The comparisons of this file can fail: the states of two steps differ."""
  flat, rows = uninterrupted
  assert rows[0] != rows[-1]
  assert any("opt_state" in name for name in flat)
  assert any("kernel" in name and x.any() for name, x in flat.items())


@pytest.mark.slow
def test_killed_in_a_save_and_resumed_equals_uninterrupted(
  uninterrupted, long_run, tmp_path
):
  process = long_run(tmp_path, "workers=2", wait=False)
  assert wait_for(
    process, lambda: run_directory.steps(tmp_path) and is_saving(tmp_path)
  )
  assert len(children(process.pid)) >= 2 or sys.platform != "linux"
  finished = run_directory.steps(tmp_path)
  kill(process)
  assert run_directory.steps(tmp_path)[-1] >= finished[-1]  # none is lost
  assert TOTAL not in finished
  done = long_run(tmp_path, "workers=2")
  assert done.returncode == 0, done.stderr
  assert re.search(rf"resuming after step \d+ of {TOTAL}", done.stdout)
  assert not is_saving(tmp_path)
  assert_ends_alike(tmp_path, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_five_times_equals_uninterrupted(
  workers, uninterrupted, long_run, tmp_path
):
  seed = time.time_ns() % 2**32
  print(f"seed {seed}")  # pytest shows it where this fails
  rng = np.random.default_rng(seed)
  in_save = int(rng.integers(5))
  for attempt in range(5):
    process = long_run(tmp_path, f"workers={workers}", wait=False)
    at = last_row(tmp_path) + int(rng.integers(1, 60))
    if attempt == in_save:
      happened = wait_for(process, lambda: is_saving(tmp_path))
      print(f"kill {attempt} in a save, {run_directory.steps(tmp_path)} there")
    else:
      happened = wait_for(
        process, lambda at=at: last_row(tmp_path) >= min(at, TOTAL - 15)
      )
      time.sleep(float(rng.uniform(0, 0.05)))
      print(f"kill {attempt} after row {last_row(tmp_path)}")
    assert happened, process.communicate()
    finished = run_directory.steps(tmp_path)
    kill(process)
    assert run_directory.steps(tmp_path)[-1:] >= finished[-1:]  # none is lost
  done = long_run(tmp_path, f"workers={workers}")
  assert done.returncode == 0, done.stderr
  assert_ends_alike(tmp_path, uninterrupted)


@pytest.mark.slow
def test_a_signal_saves_at_the_next_step(uninterrupted, long_run, tmp_path):
  process = long_run(tmp_path, wait=False)
  assert wait_for(process, lambda: last_row(tmp_path) >= 30)
  process.terminate()
  out, err = process.communicate(timeout=300)
  assert process.returncode == 143, err
  assert err == ""
  saved = int(
    re.search(rf"SIGTERM: saved after step (\d+) of {TOTAL};", out)[1]
  )
  assert run_directory.steps(tmp_path)[-1] == saved
  assert saved >= last_row(tmp_path)  # nothing that was logged is lost
  done = long_run(tmp_path)
  assert done.returncode == 0, done.stderr
  assert f"resuming after step {saved} of {TOTAL}" in done.stdout
  assert_ends_alike(tmp_path, uninterrupted)


@pytest.mark.slow
def test_a_closed_terminal_is_a_signal_too(uninterrupted, long_run, tmp_path):
  process = long_run(tmp_path, wait=False)
  assert wait_for(process, lambda: last_row(tmp_path) >= 15)
  process.stdout.close()  # what is printed from now on has no reader
  process.send_signal(signal.SIGHUP)
  assert process.wait(timeout=300) == 129
  process.stderr.close()
  assert run_directory.steps(tmp_path)[-1] >= last_row(tmp_path)
  done = long_run(tmp_path)
  assert done.returncode == 0, done.stderr
  assert_ends_alike(tmp_path, uninterrupted)


@pytest.mark.slow
def test_lost_output_ends_no_run(uninterrupted, long_run, tmp_path):
  process = long_run(tmp_path, wait=False)
  assert any("compiled" in line for line in process.stdout)
  process.stdout.close()
  _, err = process.communicate(timeout=300)
  assert (process.returncode, err) == (0, "")
  assert_ends_alike(tmp_path, uninterrupted)


@pytest.mark.slow
def test_a_second_trainer_leaves_the_first_alone(
  uninterrupted, long_run, tmp_path
):
  first = long_run(tmp_path, wait=False)
  assert wait_for(first, (tmp_path / "config.json").exists)
  record = (tmp_path / "config.json").read_text()
  second = long_run(tmp_path, "seed=7")
  assert second.returncode == 1
  assert second.stderr == (
    f"error: another process trains in {tmp_path}: stop it, or give another "
    "--workdir\n"
  )
  assert (tmp_path / "config.json").read_text() == record
  _, err = first.communicate(timeout=300)
  assert first.returncode == 0, err
  assert_ends_alike(tmp_path, uninterrupted)


@pytest.mark.slow
def test_a_signal_to_the_whole_group_ends_the_run_alike(
  uninterrupted, long_run, tmp_path
):
  """A terminal's Ctrl-C reaches the workers too."""
  process = long_run(tmp_path, "workers=2", wait=False, start_new_session=True)
  assert wait_for(process, lambda: last_row(tmp_path) >= 15)
  os.killpg(process.pid, signal.SIGINT)
  out, err = process.communicate(timeout=300)
  assert process.returncode == 130, err
  assert "SIGINT: saved after step " in out
  assert "error:" not in err
  done = long_run(tmp_path, "workers=2")
  assert done.returncode == 0, done.stderr
  assert_ends_alike(tmp_path, uninterrupted)


@pytest.fixture(scope="module")
def short_run(small_experiment, tmp_path_factory):
  """An experiment, and the directory of its run that nothing stopped."""
  experiment = small_experiment(
    *("total_steps=12", "log_every=2", "save_every=50", "eval_every=50"),
    "patch_size.choices=(12,)",
  )
  workdir = tmp_path_factory.mktemp("runs") / "short"
  assert train.train(experiment, workdir) == 0
  return experiment, workdir


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_signal_while_a_batch_is_loaded_loses_none(
  moment, short_run, tmp_path, monkeypatch
):
  experiment, uninterrupted = short_run
  real, calls = loader.TrainLoader.__next__, []

  def load(self):
    calls.append(self)
    if len(calls) == 6 and moment == "before":
      signal.raise_signal(signal.SIGTERM)
    batch = real(self)
    if len(calls) == 6:
      signal.raise_signal(signal.SIGTERM)
    return batch

  monkeypatch.setattr(loader.TrainLoader, "__next__", load)
  assert train.train(experiment, tmp_path / "stopped") == 143
  assert run_directory.steps(tmp_path / "stopped") == [5]
  assert train.train(experiment, tmp_path / "stopped") == 0
  whole, stopped = (
    [
      {k: v for k, v in row.items() if not k.startswith("speed/")}
      for row in read_rows(workdir / "metrics.jsonl")
    ]
    for workdir in (uninterrupted, tmp_path / "stopped")
  )
  assert stopped == whole


@pytest.mark.slow
def test_a_signal_during_an_evaluation_leaves_it_to_the_resumed_run(
  small_experiment, long_run, tmp_path, monkeypatch
):
  # In this process, to be sure when the signal comes.
  real = eval_loader.EvalLoader.__iter__

  def batches(self):
    for i, batch in enumerate(real(self)):
      if i == 1:
        signal.raise_signal(signal.SIGTERM)
      yield batch

  monkeypatch.setattr(eval_loader.EvalLoader, "__iter__", batches)
  overrides = (*LONG, "eval_batch_size=96")  # three batches
  assert train.train(small_experiment(*overrides), tmp_path) == 143
  assert run_directory.steps(tmp_path)[-1] == 60
  rows = read_rows(tmp_path / "metrics.jsonl")
  assert [r for r in rows if "validation/top1" in r] == []
  monkeypatch.undo()
  done = long_run(tmp_path)
  assert done.returncode == 0, done.stderr
  rows = read_rows(tmp_path / "metrics.jsonl")
  evaluated = [r["step"] for r in rows if "validation/top1" in r]
  assert evaluated == list(range(60, TOTAL + 1, 60))


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_one_before_resumed(
  small_run, command, small_run_config, tmp_path
):
  workdir = tmp_path / "run"
  shutil.copytree(small_run[0], workdir)
  *_, before, latest = run_directory.steps(workdir)
  directory = workdir / "checkpoints" / str(latest)
  files = [p for p in directory.rglob("d/*") if p.is_file()]
  largest = max(files, key=lambda p: p.stat().st_size)
  content = bytearray(largest.read_bytes())
  content[len(content) // 2] ^= 4
  largest.write_bytes(content)
  done = command("train.py", *small_run_config, f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  first, second, third = done.stdout.splitlines()[:3]
  assert first.startswith(
    f"the checkpoint of step {latest} is damaged: {largest} has changed: "
    "SHA-256 "
  )
  assert second == f"it was put aside as {directory}.damaged"
  assert third == f"resuming after step {before} of 30"
  assert_ends_alike(workdir, final(small_run[0], 30), 30)


def test_a_state_of_other_batches_is_refused(
  small_run, here, small_run_config, tmp_path
):
  workdir = tmp_path / "copy"
  shutil.copytree(small_run[0], workdir)
  for step in run_directory.steps(workdir):
    directory = workdir / "checkpoints" / str(step)
    path = directory / "progress.json"
    saved = json.loads(path.read_text())
    saved["loader"]["drawn_from"]["seed"] = 7
    path.write_text(json.dumps(saved))
    manifest.write(directory)
  done = here("train.py", *small_run_config, f"--workdir={workdir}")
  assert done.returncode == 2
  assert done.stderr == (
    "error: the checkpoint of step 30: its batches were drawn otherwise "
    "(seed: 7 -> 0): give the old values to resume, or start in another "
    "--workdir\n"
  )


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["damaged entries", "a file in its place"])
def test_a_damaged_compilation_cache_changes_nothing(
  harm, small_run, command, small_run_config, tmp_path
):
  cache = tmp_path / "cache"
  if harm == "a file in its place":
    cache.write_text("in the way")
  else:
    kwargs = dict(JAX_COMPILATION_CACHE_DIR=str(cache))
    arguments = (*small_run_config, f"--workdir={tmp_path / 'first'}")
    assert command("train.py", *arguments, **kwargs).returncode == 0
    entries = [p for p in cache.iterdir() if not p.name.endswith("-atime")]
    assert len(entries) >= 2
    for i, path in enumerate(sorted(entries)):
      content = bytearray(path.read_bytes())
      content[len(content) // 2] ^= 4
      if i % 2:
        del content[len(content) // 2 :]
      path.write_bytes(content)
  done = command(
    "train.py",
    *small_run_config,
    f"--workdir={tmp_path / 'second'}",
    JAX_COMPILATION_CACHE_DIR=str(cache),
  )
  assert done.returncode == 0, done.stderr
  values = [
    [
      {k: v for k, v in row.items() if not k.startswith("speed/")}
      for row in read_rows(path / "metrics.jsonl")
    ]
    for path in (small_run[0], tmp_path / "second")
  ]
  assert values[0] == values[1]


@pytest.mark.slow
def test_a_lost_worker_ends_the_run_and_nothing_is_lost(
  uninterrupted, long_run, tmp_path
):
  process = long_run(tmp_path, "workers=2", wait=False)
  assert wait_for(process, lambda: last_row(tmp_path) >= 15)
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
  done = long_run(tmp_path)  # on no workers: the batches are the same
  assert done.returncode == 0, done.stderr
  assert_ends_alike(tmp_path, uninterrupted)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_the_last_step_is_good(
  uninterrupted, long_run, small_disk
):
  disk = small_disk(8 << 10)
  process = long_run(disk / "run", wait=False)
  assert wait_for(process, lambda: run_directory.steps(disk / "run"))
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
  done = long_run(disk / "run")
  assert done.returncode == 0, done.stderr
  assert "damaged" not in done.stdout
  assert_ends_alike(disk / "run", uninterrupted)
