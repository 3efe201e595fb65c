"""SHA-256 of a file, or every file in a directory, as `sha256sum -c` reads it.

The storage formats below it have no checksum of their own: a flipped bit in an
array would be restored as another number, without a word.
"""

import contextlib
import errno
import hashlib
import pathlib
import re
from collections.abc import Callable, Iterator

from flexivit_jax.checkpoints.atomic import (
  removing,
  replacing,
  sync,
  unfinished_name,
)

NAME = "manifest.sha256"


def write(directory: pathlib.Path) -> None:
  """Writes the manifest; then it and the files outlive a loss of power."""
  text = describe(directory)
  with (directory / NAME).open("w") as file:
    file.write(text)
  for path in (directory, *directory.rglob("*")):
    sync(path)


def make_directory(
  path: pathlib.Path, fill: Callable[[pathlib.Path], None]
) -> None:
  """A directory that gets its name once all of it, with sums, is written.

  Args:
    fill: called with the directory in which it writes.

  Raises:
    FileExistsError: somebody else made it meanwhile.
  """
  unfinished = unfinished_name(path)
  with removing(unfinished):
    unfinished.mkdir(parents=True)
    fill(unfinished)
    write(unfinished)
    check_free(path)
    unfinished.rename(path)
    sync(path.parent)


def check_free(path: pathlib.Path) -> None:
  """Refuses to replace what somebody else made while we wrote.

  Raises:
    FileExistsError: it is there.
  """
  if path.exists():
    raise FileExistsError(errno.EEXIST, "made by another process", str(path))


def damage(directory: pathlib.Path) -> str | None:
  """What differs from the manifest, as a few words; None: nothing does."""
  path = directory / NAME
  if not path.is_file():
    return f"{path} is missing"
  written = path.read_bytes()
  found = describe(directory).encode()
  if written == found:
    return None
  # The texts are compared, not their meaning, so that a flipped bit in the
  # manifest itself is noticed as well.
  old, new = _parse(written), _parse(found)
  for name in sorted(old.keys() | new.keys()):
    file = directory / name
    if name not in new:
      return f"{file} is missing, or its name in {NAME} is damaged"
    if name not in old:
      return f"{file} is not in {NAME}"
    if old[name] != new[name]:
      return (
        f"{file} has changed: SHA-256 {new[name][:12]}..., written "
        f"{old[name][:12]}..."
      )
  return f"{path} is damaged"


def describe(directory: pathlib.Path) -> str:
  """The manifest's text for the files that are there."""
  files = sorted(
    p for p in directory.rglob("*") if p.is_file() and p != directory / NAME
  )
  return "".join(
    f"{digest(p)}  {p.relative_to(directory).as_posix()}\n" for p in files
  )


def _parse(text: bytes) -> dict[str, str]:
  lines = text.decode(errors="replace").splitlines()
  return {
    name: digest for digest, _, name in (x.partition("  ") for x in lines)
  }


def digest(path: pathlib.Path) -> str:
  """SHA-256 of a file, in 64 digits."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def write_sum(path: pathlib.Path) -> None:
  """Writes the sum of FILE to FILE.sha256."""
  with replacing(_sum_file(path)) as unfinished:
    unfinished.write_text(_sum(path, path.name))


@contextlib.contextmanager
def replacing_with_sum(
  path: pathlib.Path, exclusive: bool = False
) -> Iterator[pathlib.Path]:
  """As `files.replacing`, and FILE.sha256 is replaced with FILE.

  At no moment is there a FILE beside the sum of another: a crash in between
  leaves it without one.

  Args:
    exclusive: nothing is to be replaced.

  Raises:
    FileExistsError: with `exclusive`, somebody else wrote it meanwhile.
  """
  sum_file = _sum_file(path)
  # Left from the inside out: the file gets its name before its sum does.
  with replacing(sum_file) as new_sum, replacing(path) as new:
    yield new
    if exclusive:
      check_free(path)
    new_sum.write_text(_sum(new, path.name))
    # What can fail comes before the old sum goes.
    sync(new)
    sync(new_sum)
    sum_file.unlink(missing_ok=True)
    sync(path.parent)


def check_sum(path: pathlib.Path) -> str | None:
  """The SHA-256 of FILE where FILE.sha256 agrees; None: there is no such file.

  The name in FILE.sha256 is not compared, so that both may be renamed.

  Raises:
    ValueError: it does not agree, or is not one line of sha256sum.
  """
  sum_file = _sum_file(path)
  if not sum_file.is_file():
    return None
  way_out = f"get it from its source again, or delete {sum_file}"
  line = re.fullmatch(rb"([0-9a-f]{64}) [ *].+\n?", sum_file.read_bytes())
  if line is None:
    raise ValueError(
      f"{sum_file} is damaged, which should be one line, SHA-256 and name: "
      f"{way_out} to do without"
    )
  written, found = line[1].decode(), digest(path)
  if found != written:
    raise ValueError(
      f"{path} has changed: SHA-256 {found[:12]}..., written "
      f"{written[:12]}...: {way_out} if the change was meant"
    )
  return found


def _sum_file(path):
  return path.with_name(f"{path.name}.sha256")


def _sum(path, name):
  return f"{digest(path)}  {name}\n"
