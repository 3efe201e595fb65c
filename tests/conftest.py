"""Fixtures of all tests, and JAX as tests/jax_settings.py sets it."""

import importlib
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import pytest

from flexivit_jax.cli import errors
from flexivit_jax.config import build
from tests import jax_settings, runs

ROOT = pathlib.Path(__file__).parents[1]

jax_settings.simulate_devices()
jax_settings.share_compilations()


@pytest.fixture
def float64():
  """Float64 arrays, for this test only."""
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope="session")
def command():
  """Runs `python SCRIPT ARGS...` at the root, as a user would.

  Returns a function; with `wait=False` it gives the running process. Further
  keywords are environment variables, None to leave one out.
  """
  environment = os.environ | jax_settings.cache_environment()

  def run(
    script,
    *arguments,
    wait=True,
    start_new_session=False,
    **extra,
  ):
    process = subprocess.Popen(  # noqa: S603
      [sys.executable, script, *map(str, arguments)],
      cwd=ROOT,
      env={k: v for k, v in (environment | extra).items() if v is not None},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=start_new_session,
    )
    if not wait:
      return process
    out, err = process.communicate(timeout=600)
    return subprocess.CompletedProcess(
      process.args, process.returncode, out, err
    )

  return run


@pytest.fixture
def here(capsys):
  """`command` of a script with a main, in this process: sooner, and on the
  tests' eight devices. Not for what ends by a signal, or reads its environment.
  """

  def run(script, *arguments):
    main = importlib.import_module(script.removesuffix(".py")).main
    status = 0
    try:
      errors.run(lambda: main([*map(str, arguments)]))
    except SystemExit as e:
      status = e.code
    finally:
      jax_settings.share_compilations()
    return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())

  return run


@pytest.fixture
def trained(tmp_path, tmp_path_factory):
  """Copies a finished run of tests/runs.py by name; returns its directory."""

  def copy(name):
    directory = runs.shared_directory(tmp_path_factory)
    workdir = tmp_path / f"trained_{name}"
    return shutil.copytree(runs.trained(name, directory), workdir)

  return copy


@pytest.fixture
def small_disk(tmp_path):
  """Makes a file system of so many KiB, mounted at the path that it returns."""
  mount, umount = shutil.which("mount"), shutil.which("umount")
  mounted = []

  def make(kib):
    directory = tmp_path / f"disk{len(mounted)}"
    directory.mkdir()
    options = ("-t", "tmpfs", "-o", f"size={kib}k", "none", str(directory))
    if mount is None or subprocess.run([mount, *options]).returncode:  # noqa: S603
      pytest.skip("mounting a small disk is not permitted here")
    mounted.append(directory)
    return directory

  yield make
  for directory in mounted:
    subprocess.run([umount, "-l", str(directory)], check=True)  # noqa: S603


SMALL = (
  "model.size=mu",
  "patch_size.choices=(6,12)",
  "batch_size=16",
  "optimizer.schedule.warmup_steps=2",
)
SMALL_CONFIG = "configs/flexivit_digits.py"
SMALL_RUN = ("total_steps=30", "eval_every=10", "save_every=15", "log_every=5")


@pytest.fixture(scope="session")
def small_config():
  """Makes arguments of train.py for the main job in seconds.

  Further arguments are overrides, `key=value`.
  """

  def arguments(*overrides):
    overrides = [f"--config.{o}" for o in (*SMALL, *overrides)]
    return (f"--config={SMALL_CONFIG}", *overrides)

  return arguments


@pytest.fixture(scope="session")
def small_experiment():
  """Makes the same as an `Experiment`."""

  def experiment(*overrides):
    return build.load(SMALL_CONFIG, (*SMALL, *overrides))

  return experiment


@pytest.fixture(scope="session")
def small_run_config(small_config):
  """Arguments of `small_run`."""
  return small_config(*SMALL_RUN)


@pytest.fixture(scope="session")
def small_run(command, small_run_config, tmp_path_factory):
  """A finished small run's directory."""
  workdir = tmp_path_factory.mktemp("runs") / "small"
  done = command("train.py", *small_run_config, f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  return workdir, done
