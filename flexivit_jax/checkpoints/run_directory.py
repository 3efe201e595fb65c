"""The directory of a run's checkpoints: lock, disk space, finished steps."""

import contextlib
import fcntl
import logging
import pathlib
import secrets
import shutil
import sys
import time

import jax
import numpy as np

from flexivit_jax.checkpoints import manifest
from flexivit_jax.core.errors import Fault
from flexivit_jax.core.text import format_bytes

DIRECTORY = "checkpoints"


# How long a network file system may take to show a file, in seconds.
SHARED_S = 20.0


class CheckpointError(Fault):
  """A checkpoint that cannot be written, or none that can be restored."""


def steps(workdir) -> list[int]:
  """Finished steps of a run, in order. Whether they are damaged is unknown."""
  directory = directory_of(workdir)
  if not directory.is_dir():
    return []
  found = (p for p in directory.iterdir() if p.name.isdecimal() and p.is_dir())
  return sorted(int(p.name) for p in found)


def is_whole(workdir, step: int) -> bool:
  """Whether a run has this step, undamaged."""
  if step not in steps(workdir):
    return False
  return manifest.damage(directory_of(workdir) / str(step)) is None


def check_space(directory: pathlib.Path, wanted: int, what: str) -> None:
  """Refuses to begin what the disk has no room for.

  Args:
    wanted: bytes.

  Raises:
    CheckpointError: fewer are free.
  """
  free = shutil.disk_usage(directory).free
  if free < wanted:
    raise CheckpointError(
      f"{directory} has {format_bytes(free)} free, and {what} takes "
      f"{format_bytes(wanted)}: free some space, then the same command goes on"
    )


def num_bytes(tree) -> int:
  """Of all arrays, or shapes of arrays, in a tree."""
  leaves = jax.tree.leaves(tree)
  return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in leaves)


def directory_of(workdir) -> pathlib.Path:
  return pathlib.Path(workdir).absolute() / DIRECTORY


def lock(path):
  """Held until closed or until the process ends, killed or not."""
  file = path.open("a")
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as e:
    file.close()
    raise CheckpointError(
      f"another process trains in {path.parents[1]}: stop it, or give another "
      "--workdir"
    ) from e
  return file


def check_shared(directory, peers):
  """Refuses directories that are not one and the same.

  Raises:
    CheckpointError: this process does not see what the first one wrote.
  """
  path, written = directory / "shared", secrets.token_hex(8)
  if peers.index == 0:
    path.write_text(written)
  written = peers.gather(written)[0]
  deadline = time.monotonic() + SHARED_S
  while True:
    with contextlib.suppress(OSError):
      if path.read_text() == written:
        break
    if time.monotonic() > deadline:
      raise CheckpointError(
        f"{directory.parent} is not the directory of that name that process 0 "
        "has: give a --workdir on storage that all machines share, mounted at "
        "the same path"
      )
    time.sleep(0.1)
  peers.gather(None)
  if peers.index == 0:
    path.unlink()


def silence():
  # Orbax logs every save, and errors that it raises as well; asyncio, those of
  # the arrays that were still under way.
  for name in ("absl", "asyncio"):
    logging.getLogger(name).setLevel(logging.CRITICAL + 1)
  # After a failed write, TensorStore prints a traceback for each array that was
  # still under way, soon or later: its event loop is gone.
  before = sys.unraisablehook
  if not isinstance(before, _LeavingOutClosedLoops):
    sys.unraisablehook = _LeavingOutClosedLoops(before)


class _LeavingOutClosedLoops:
  def __init__(self, before):
    self._before = before

  def __call__(self, unraisable):
    if str(unraisable.exc_value) != "Event loop is closed":
      self._before(unraisable)
