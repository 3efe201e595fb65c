"""Five tiny runs of six steps, trained once for all tests of a test run."""

import contextlib
import fcntl
import os
import pathlib
import shutil

import train
from tests import jax_settings

SIZE = 'size={"name":"custom","width":32,"depth":2,"mlp_dim":64,"num_heads":4}'
COMMON = (
  *(f"model.{SIZE}", "batch_size=8", "eval_batch_size=8", "total_steps=6"),
  *("eval_every=6", "save_every=3", "log_every=1"),
  "optimizer.schedule.warmup_steps=1",
  "validation.source.split=train[:16]",
)
GRID = (
  *("model.kernel_hw=(8,8)", "model.position.size=(4,4)"),
  "patch_size.choices=(6,12)",
)
# Config file and overrides; TEACHER is the directory of `labels`.
RUNS = {
  "labels": ("flexivit_digits.py", GRID),
  "packed": ("navit_digits.py", ()),
  "mae": (
    "mae_digits.py",
    (*GRID, f"task.decoder.{SIZE}", "task.decoder.size.depth=1"),
  ),
  "diffusion": ("dit_digits.py:2", ()),
  "distilled": (
    "flexivit_digits_distill.py:TEACHER",
    (*GRID, "task.teacher.patch_size=6"),
  ),
}
ROOT = pathlib.Path(__file__).parents[1]


def shared_directory(tmp_path_factory) -> pathlib.Path:
  """A temporary directory that all workers of a test run have in common."""
  own = tmp_path_factory.getbasetemp()
  root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
  directory = root / "trained_runs"
  directory.mkdir(exist_ok=True)
  return directory


def trained(name: str, directory: pathlib.Path) -> pathlib.Path:
  """The directory of a finished run, trained by whoever asks first.

  Not to be written to: `directory` is shared by all tests.
  """
  config, overrides = RUNS[name]
  if "TEACHER" in config:
    config = config.replace("TEACHER", str(trained("labels", directory)))
  workdir = directory / name
  with _locked(directory / f"{name}.lock"):
    if workdir.exists():
      return workdir
    unfinished = directory / f"{name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    overrides = [f"--config.{o}" for o in (*COMMON, *overrides)]
    with contextlib.chdir(ROOT):
      train.main(
        [f"--config=configs/{config}", *overrides, f"--workdir={unfinished}"]
      )
    jax_settings.share_compilations()
    unfinished.rename(workdir)
  return workdir


@contextlib.contextmanager
def _locked(path: pathlib.Path):
  """Holds a lock of the machine's processes."""
  with path.open("w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield
