"""What the file formats share: replacing a file, and refusing one."""

import contextlib
import os
import pathlib
import secrets
from collections.abc import Iterator

from flexivit_jax.core.text import cut


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
  unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}.unfinished")
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
  finally:
    unfinished.unlink(missing_ok=True)


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
