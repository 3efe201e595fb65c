"""SHA-256 of every file in a directory, as `sha256sum -c` reads it.

The storage formats below it have no checksum of their own: a flipped bit in an
array would be restored as another number, without a word.
"""

import hashlib
import os
import pathlib

NAME = "manifest.sha256"


def write(directory: pathlib.Path) -> None:
  """Writes the manifest; then it and the files outlive a loss of power."""
  text = describe(directory)
  with (directory / NAME).open("w") as file:
    file.write(text)
  for path in (directory, *directory.rglob("*")):
    sync(path)


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
    f"{_digest(p)}  {p.relative_to(directory).as_posix()}\n" for p in files
  )


def _parse(text: bytes) -> dict[str, str]:
  lines = text.decode(errors="replace").splitlines()
  return {
    name: digest for digest, _, name in (x.partition("  ") for x in lines)
  }


def _digest(path):
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: pathlib.Path) -> None:
  """Has the disk hold what was written to a file, or a directory's names."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
