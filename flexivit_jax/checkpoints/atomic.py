"""What the file formats share: replacing a file, and refusing one."""

import contextlib
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator

from flexivit_jax.core.text import cut

# Files and directories under way, for a command that is interrupted.
_unfinished: set[pathlib.Path] = set()


def unfinished_name(path: pathlib.Path) -> pathlib.Path:
  """A name beside `path` that nobody else writes to."""
  return path.with_name(f"{path.name}.{secrets.token_hex(4)}.unfinished")


@contextlib.contextmanager
def removing(unfinished: pathlib.Path) -> Iterator[None]:
  """Removes what is there at the end, or when `remove_unfinished` is called."""
  _unfinished.add(unfinished)
  try:
    yield
  finally:
    _remove(unfinished)
    _unfinished.discard(unfinished)


def remove_unfinished() -> None:
  """Removes all that is under way: the process is about to end."""
  for path in list(_unfinished):
    _remove(path)


def _remove(path):
  if path.is_dir():
    shutil.rmtree(path, ignore_errors=True)
  else:
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A name to write a file under, which then takes the place of `path`.

  The disk holds the file before it gets its name, so that there is never half a
  file at `path`. After an exception there is what there was before; after
  `kill -9` there may be a `NAME.*.unfinished` besides.

  Raises:
    OSError: of the writer, or of renaming; its filename is `path`.
  """
  # Not one name for all: two processes may write the same file.
  unfinished = unfinished_name(path)
  with removing(unfinished):
    try:
      yield unfinished
      sync(unfinished)
      unfinished.replace(path)
      sync(path.parent)
    except OSError as e:
      # A full disk comes without a name, and the unfinished one is gone.
      if e.filename is None or str(e.filename) == str(unfinished):
        e.filename = str(path)
      raise


def sync(path: pathlib.Path) -> None:
  """Has the disk hold what was written to a file, or a directory's names."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def refusal(path: pathlib.Path, kind: str, reason: str) -> ValueError:
  """The error of a file that cannot be read as such a kind: one line."""
  # The reason may quote the file, which may hold anything.
  reason = "".join(c if c.isprintable() else " " for c in reason)
  return ValueError(f"{path}: not a readable {kind} file: {cut(reason, 500)}")
