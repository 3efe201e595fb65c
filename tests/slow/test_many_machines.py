"""Runs of several processes, each with a part of the simulated devices.

The processes are real: signals, kills and errors reach one of them.
"""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import time

import numpy as np
import pytest

from flexivit_jax.checkpoints import run_directory
from tests.run import whole_runs
from tests.run.whole_runs import assert_same_end, rows, wait_for

pytestmark = pytest.mark.slow

TOTAL = 24
HEARTBEAT_S = 12
# The heartbeat, the check for it, and the end, on a machine that is busy.
NOTICED_S = 2 * HEARTBEAT_S + 10
LENGTH = (
  f"total_steps={TOTAL}",
  "eval_every=12",
  "save_every=6",
  "log_every=4",
)
# Plain SGD: Adam would make much of gradients that are zero but for rounding.
DIGITS = (
  *(*LENGTH, "model.dropout=0.1"),
  *("optimizer=sgd", "optimizer.learning_rate=0.05"),
)
PACKED_DIGITS = (
  *(*LENGTH, "model.size=mu", "batch_size=8", "eval_batch_size=16"),
  *("packing.open_rows=4", "optimizer.schedule.warmup_steps=2"),
)
PACKED = (
  *(*LENGTH, "model.size=mu", "batch_size=8", "eval_batch_size=16"),
  *("packing.open_rows=4", "optimizer.schedule.warmup_steps=2"),
)
NAVIT = ("--config=configs/navit_digits.py", *(f"--config.{x}" for x in PACKED))


# Below those that the system hands out: no other process is given one between
# the search for it and its use.
PORTS = itertools.count(20_000 + os.getpid() % 10_000)


def free_port():
  for port in PORTS:
    with (
      contextlib.suppress(OSError),
      socket.create_server(("127.0.0.1", port)),
    ):
      return port


@pytest.fixture(scope="module")
def launch(command):
  """Starts train.py as several processes; a function of their arguments.

  Returns the processes, process 0 first.
  """

  def start(workdir, *arguments, each=((), ()), devices=4, port=None):
    port = port or free_port()
    common = (
      *arguments,
      f"--coordinator=127.0.0.1:{port}",
      f"--num_processes={len(each)}",
      f"--heartbeat_timeout={HEARTBEAT_S}",
      "--initialization_timeout=60",
      f"--workdir={workdir}",
    )
    return [
      command(
        "train.py",
        *(*common, f"--process_id={i}", *own),
        wait=False,
        JAX_PLATFORMS="cpu",
        JAX_NUM_CPU_DEVICES=str(devices),
      )
      for i, own in enumerate(each)
    ]

  return start


@pytest.fixture(scope="module")
def alone(command):
  """Runs train.py as one process with eight devices."""

  def run(workdir, *arguments, **kwargs):
    return command(
      *("train.py", *arguments, f"--workdir={workdir}"),
      JAX_PLATFORMS="cpu",
      JAX_NUM_CPU_DEVICES="8",
      **kwargs,
    )

  return run


def finish(processes, seconds=300):
  """(status, standard output, standard error) of each."""
  found = []
  deadline = time.monotonic() + seconds
  try:
    for process in processes:
      out, err = process.communicate(timeout=deadline - time.monotonic())
      found.append((process.returncode, out, err))
  finally:
    for process in processes:
      if process.poll() is None:
        process.kill()
        process.communicate()
  return found


def assert_success(processes):
  """Both end with status 0; returns what they said."""
  done = finish(processes)
  assert [status for status, *_ in done] == [0, 0], done
  return done


def assert_close(workdir, other):
  found, expected = (whole_runs.arrays(x, TOTAL) for x in (workdir, other))
  assert found.keys() == expected.keys()
  for name, y in expected.items():
    # Sums over devices in another order: the worst of all arrays was 4e-6 of
    # its largest number after 24 steps.
    scale = max(np.abs(y).max(), 1e-3)
    atol = 0 if np.issubdtype(y.dtype, np.integer) else 2e-5 * scale
    np.testing.assert_allclose(found[name], y, rtol=0, atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def digits(small_config):
  return small_config(*DIGITS)


@pytest.fixture(scope="module")
def two(launch, digits, tmp_path_factory):
  """A run of two processes that nothing happened to, and what they said."""
  workdir = tmp_path_factory.mktemp("runs") / "two"
  return workdir, assert_success(launch(workdir, *digits))


def test_only_the_first_process_prints_and_writes(two):
  workdir, ((_, out, _), (_, other_out, other_err)) = two
  assert f"step {TOTAL}/{TOTAL}" in out
  # gloo's own, of C++.
  lines = [x for x in other_out.splitlines() if "Rank" not in x]
  assert lines == []
  assert other_err == ""
  record = json.loads((workdir / "config.json").read_text())
  assert record["provenance"]["processes"] == 2
  assert len(record["provenance"]["devices"]) == 8
  steps = [row["step"] for row in rows(workdir)]
  assert steps == [4, 8, 12, 12, 16, 20, 24, 24]


def test_two_processes_equal_one_of_as_many_devices(
  two, alone, digits, tmp_path
):
  workdir, _ = two
  done = alone(tmp_path, *digits)
  assert done.returncode == 0, done.stderr
  assert_close(workdir, tmp_path)
  for row, other in zip(rows(workdir), rows(tmp_path), strict=True):
    assert row.keys() == other.keys()
    # Counts of right answers: every process scored all images.
    top1 = {k for k in row if k.startswith("validation/top1")}
    assert {k: row[k] for k in top1} == {k: other[k] for k in top1}


@pytest.mark.parametrize("victim", [1, 0])
def test_a_killed_process_ends_the_other_and_a_restart_resumes_exactly(
  victim, two, launch, digits, tmp_path
):
  processes = launch(tmp_path, *digits)
  wait_for(lambda: run_directory.steps(tmp_path), *processes)
  processes[victim].kill()
  start = time.monotonic()
  done = finish(processes)
  assert time.monotonic() - start < NOTICED_S
  status, _, err = done[1 - victim]
  assert status not in (0, None)
  assert err
  assert TOTAL not in run_directory.steps(tmp_path)
  (_, out, _), _ = assert_success(launch(tmp_path, *digits))
  assert re.search(rf"resuming after step \d+ of {TOTAL}", out)
  assert_same_end(tmp_path, two[0], TOTAL)


def test_a_silent_process_is_lost_after_the_heartbeat(launch, digits, tmp_path):
  processes = launch(tmp_path, *digits)
  wait_for(lambda: run_directory.steps(tmp_path), *processes)
  processes[1].send_signal(signal.SIGSTOP)
  try:
    processes[0].communicate(timeout=NOTICED_S)
  finally:
    processes[1].kill()
    finish(processes[1:])
  assert processes[0].returncode != 0


@pytest.mark.parametrize("told", [1, 0])
def test_a_signal_to_one_process_stops_both_after_the_same_step(
  told, two, launch, alone, digits, tmp_path
):
  stopped, on_one = tmp_path / "stopped", tmp_path / "on_one"
  processes = launch(stopped, *digits)
  wait_for(lambda: rows(stopped), *processes)
  processes[told].send_signal(signal.SIGTERM)
  (status, out, err), (other, *_) = finish(processes)
  assert (status, other) == (143, 143), err
  said = re.search(rf"SIGTERM: saved after step (\d+) of {TOTAL};", out)
  assert run_directory.steps(stopped)[-1] == int(said[1])
  assert 4 <= int(said[1]) < TOTAL
  shutil.copytree(stopped, on_one)
  assert_success(launch(stopped, *digits))
  assert_same_end(stopped, two[0], TOTAL)
  # On another number of processes it goes on as well: the same batches.
  done = alone(on_one, *digits)
  assert done.returncode == 0, done.stderr
  assert f"resuming after step {said[1]} of {TOTAL}" in done.stdout
  assert_close(on_one, two[0])


def test_packed_rows_resume_exactly_in_as_many_processes_only(
  launch, alone, tmp_path
):
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  assert_success(launch(whole, *NAVIT))
  processes = launch(killed, *NAVIT)
  wait_for(lambda: run_directory.steps(killed), *processes)
  processes[1].kill()
  finish(processes)
  step = run_directory.steps(killed)[-1]
  assert step < TOTAL
  done = alone(killed, *NAVIT)
  assert done.returncode == 2
  assert f"step {step}: its rows were packed by 2 processes" in done.stderr
  assert "go on with 2" in done.stderr
  assert_success(launch(killed, *NAVIT))
  assert_same_end(killed, whole, TOTAL)


def test_sharded_parameters_are_saved_by_the_processes_that_hold_them(
  two, launch, digits, tmp_path
):
  fsdp = ("--config.sharding=fsdp", "--config.sharding.min_size=0")
  assert_success(launch(tmp_path, *digits, *fsdp))
  assert_close(tmp_path, two[0])


ROWS = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, Mesh
from flexivit_jax.cli import arguments, distributed
from flexivit_jax.devices import placement

def check(devices, rows):
  mesh = Mesh(devices, ("data", "seq"), axis_types=(AxisType.Auto,) * 2)
  assert placement.process_rows(mesh) == rows, placement.process_rows(mesh)
  x = np.arange(24.0).reshape(8, 3)
  index, count = rows
  own = np.split(x, count)[index]
  placed = placement.to_devices(own, mesh)
  assert placed.shape == placement.shapes(own, mesh).shape == x.shape
  for shard in placed.addressable_shards:
    np.testing.assert_array_equal(shard.data, x[shard.index])
  everywhere = placement.replicate(x, mesh)
  np.testing.assert_array_equal(everywhere, x)

parser = arguments.parser("")
distributed.add_arguments(parser)
args, _ = arguments.parse(parser, sys.argv[1:])
with distributed.started(args) as peers:
  devices = np.array(jax.devices())
  check(devices.reshape(8, 1), (peers.index, 2))
  check(devices.reshape(4, 2), (peers.index, 2))
  # `seq` over both processes: all rows are everyone's.
  check(devices.reshape(2, 4).T, (0, 1))
  check(devices.reshape(1, 8), (0, 1))
  # Values of unlike lengths.
  assert peers.gather("x" * 300 * peers.index) == ["", "x" * 300]
  # One is told to stop after its second question.
  own = [None, 15 if peers.index else None, None, None]
  assert [peers.stop_signal(x) for x in own] == [None, None, None, 15]
  if peers.index == 0:
    print("checked")
"""


def test_processes_place_rows_gather_values_and_agree_on_a_stop(command):
  common = f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"
  processes = [
    command(
      *("-c", ROWS, *common, f"--process_id={i}"),
      wait=False,
      JAX_PLATFORMS="cpu",
      JAX_NUM_CPU_DEVICES="4",
    )
    for i in range(2)
  ]
  done = finish(processes)
  assert [(status, err) for status, _, err in done] == [(0, ""), (0, "")]
  assert "checked" in done[0][1]


def test_what_all_refuse_each_says(launch, digits, tmp_path):
  each = ("--config.seed=1",), ("--config.seed=2",)
  done = finish(launch(tmp_path / "run", *digits, each=each))
  for status, _, err in done:
    assert status == 1
    assert "config.seed is 1 in process 0 and 2 in process 1: " in err
  assert not (tmp_path / "run").exists()


def test_other_directories_are_refused(launch, digits, tmp_path):
  each = (), (f"--workdir={tmp_path / 'other'}",)
  done = finish(launch(tmp_path / "run", *digits, each=each))
  assert 0 not in [status for status, *_ in done]
  assert f"{tmp_path / 'other'} is not the directory of that" in done[1][2]
