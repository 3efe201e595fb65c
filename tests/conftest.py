"""JAX for the tests: eight simulated devices, no implicit rank promotion."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[1]

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def float64():
  """Float64 arrays, for this test only."""
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope="session")
def command(tmp_path_factory):
  """Runs `python SCRIPT ARGS...` at the root, as a user would.

  Returns a function; with `wait=False` it gives the running process. Further
  keywords are environment variables, None to leave one out.
  """
  cache = tmp_path_factory.mktemp("xla")
  environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}

  def run(script, *arguments, wait=True, **extra):
    process = subprocess.Popen(  # noqa: S603
      [sys.executable, script, *map(str, arguments)],
      cwd=ROOT,
      env={k: v for k, v in (environment | extra).items() if v is not None},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    if not wait:
      return process
    out, err = process.communicate(timeout=600)
    return subprocess.CompletedProcess(
      process.args, process.returncode, out, err
    )

  return run


SMALL = (
  "--config=configs/flexivit_digits.py",
  "--config.model.size=mu",
  "--config.patch_size.choices=(6,12)",
  "--config.batch_size=16",
  "--config.optimizer.schedule.warmup_steps=2",
)


@pytest.fixture(scope="session")
def small_config():
  """Arguments of train.py that make the main job run in seconds."""
  return SMALL


@pytest.fixture(scope="session")
def small_run(command, tmp_path_factory):
  """A finished small run's directory."""
  workdir = tmp_path_factory.mktemp("runs") / "small"
  done = command(
    "train.py",
    *SMALL,
    "--config.total_steps=30",
    "--config.eval_every=10",
    "--config.save_every=15",
    "--config.log_every=5",
    f"--workdir={workdir}",
  )
  assert done.returncode == 0, done.stderr
  return workdir, done
