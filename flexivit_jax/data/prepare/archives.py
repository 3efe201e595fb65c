"""Encoded images where users have them: a folder, or a tar archive.

Both list their images by relative path, and read them. Nothing of an archive
is written to disk, so no name in it is ever a path.
"""

import collections
import concurrent.futures
import dataclasses
import gzip
import os
import pathlib
import tarfile
import zlib
from collections.abc import Collection, Iterator, Mapping

from flexivit_jax.core.errors import Fault
from flexivit_jax.core.text import format_bytes, listed, show
from flexivit_jax.data.pixels.decode import BadImageError, decode_rgb
from flexivit_jax.data.sources.image_folder import IMAGE_SUFFIXES

# Of one encoded image: larger than any that decode_rgb accepts should be.
MAX_BYTES = 256 * 2**20


@dataclasses.dataclass(frozen=True)
class Listing:
  """What is in a folder or an archive.

  Attributes:
    sizes: of the images, in bytes, by relative path with "/".
    others: how many other files there are, by suffix.
  """

  sizes: Mapping[str, int]
  others: Mapping[str, int]

  def checked(self, path: pathlib.Path) -> "Listing":
    """Itself.

    Raises:
      ValueError: there is no image.
    """
    if self.sizes:
      return self
    kinds = listed(f"{n} {suffix}" for suffix, n in self.others.items())
    # As ImageNet's own: an archive of archives.
    hint = "; unpack the archives in it" if ".tar" in self.others else ""
    raise ValueError(
      f"no image in {path}: looked for {', '.join(IMAGE_SUFFIXES)}, and found "
      f"{kinds or 'no file'}{hint}"
    )


@dataclasses.dataclass(frozen=True)
class Folder:
  """A directory; links in it are followed."""

  path: pathlib.Path

  def title(self, name: str) -> str:
    """What a message calls an image."""
    return str(self.path / name)

  def list(self) -> Listing:
    """All images below, but for hidden files and directories.

    Raises:
      ValueError: there is none.
      OSError: a directory cannot be read.
    """
    sizes, others = {}, collections.Counter()
    # Directory, and what it lies in: a link may lead back there.
    left = [("", (_identity(self.path),))]
    while left:
      relative, above = left.pop()
      with os.scandir(self.path / relative) as entries:
        for entry in entries:
          name = f"{relative}/{entry.name}" if relative else entry.name
          if _is_hidden(name):
            continue
          if entry.is_dir():
            identity = _identity(entry.path)
            if identity not in above:
              left.append((name, (*above, identity)))
          elif _is_image(name):
            # A broken link is an image that cannot be read.
            sizes[name] = entry.stat().st_size if entry.is_file() else 0
          else:
            others[_suffix(name)] += 1
    return Listing(sizes, others).checked(self.path)

  def read(
    self, names: Collection[str]
  ) -> Iterator[tuple[str, bytes | BadImageError]]:
    """Each image's bytes, or why there are none, in the order of `names`."""
    for name in names:
      path = self.path / name
      try:
        with path.open("rb") as file:
          encoded = file.read(MAX_BYTES + 1)
      except OSError as e:
        yield name, BadImageError(f"{path}: cannot read it: {e.strerror}")
        continue
      yield name, _checked_size(str(path), len(encoded)) or encoded


@dataclasses.dataclass(frozen=True)
class Archive:
  """A tar archive, plain or compressed with gzip."""

  path: pathlib.Path

  def title(self, name: str) -> str:
    """What a message calls an image."""
    return f"{self.path}:{name}"

  def list(self) -> Listing:
    """All images in it, but for hidden ones. Reads all of it.

    Raises:
      ValueError: there is none, or it is another kind of archive.
      Fault: it is damaged, or an image in it is a link or a device, is there
        twice or has a name that leads elsewhere.
    """
    sizes, others = {}, collections.Counter()
    for member, _ in self._members():
      name = _plain_name(member.name)
      if member.isdir() or _is_hidden(name):
        continue
      if not _is_image(name):
        others[_suffix(name)] += 1
        continue
      problem = _oddity(member, name, sizes)
      if problem:
        raise Fault(
          f"{self.path}: {show(member.name)} {problem}: unpack the archive and "
          "prepare the folder, or pack it anew"
        )
      sizes[name] = member.size
    return Listing(sizes, others).checked(self.path)

  def read(
    self, names: Collection[str]
  ) -> Iterator[tuple[str, bytes | BadImageError]]:
    """Each image's bytes, or why there are none, in the archive's order.

    Raises:
      Fault: the archive is damaged, or is not what was listed.
    """
    left = set(names)
    for member, encoded in self._members(left):
      if encoded is None and member.size <= MAX_BYTES:
        continue
      name = _plain_name(member.name)
      if name in left:
        left.remove(name)
        yield name, _checked_size(self.title(name), member.size) or encoded
    if left:
      raise Fault(
        f"{self.path} has changed while it was read: {min(left)} is gone; "
        "start again"
      )

  def _members(
    self, wanted: Collection[str] = ()
  ) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """All members, those that are wanted (and not too large) with their data.

    Raises:
      ValueError: it is another kind of archive.
      Fault: it is damaged, or no archive.
    """
    last = "its beginning"
    with self.path.open("rb") as raw, _decompressed(raw, self.path) as file:
      blocks = _Blocks(file)
      try:
        with tarfile.open(fileobj=blocks, mode="r:") as tar:
          end = 0
          while (member := tar.next()) is not None:
            # Sizes below zero lead back, for ever.
            if tar.offset <= end:
              raise tarfile.ReadError("a header with a size below zero")
            end = tar.offset
            tar.members.clear()  # tarfile keeps them all
            encoded = None
            if member.isreg() and member.size <= MAX_BYTES:
              if _plain_name(member.name) in wanted:
                encoded = tar.extractfile(member).read()
            yield member, encoded
            last = show(member.name)
        # tarfile takes a damaged header for the end.
        if blocks.last != bytes(tarfile.BLOCKSIZE):
          raise tarfile.ReadError("it has no end mark")
        # The sums of compressed data come last.
        while file.read(2**20):
          pass
      except (
        *(tarfile.TarError, EOFError, zlib.error),
        *(ValueError, OverflowError, OSError),
      ) as e:
        raise Fault(
          f"{self.path}: not a whole tar archive ({e}), damaged after {last}: "
          "get it from its source again"
        ) from e


class _Blocks:
  """A file as tarfile reads it, that remembers what was read last."""

  def __init__(self, file):
    self.last, self._file = b"", file
    self.seek, self.tell = file.seek, file.tell

  def read(self, size):
    if not 0 <= size <= MAX_BYTES:
      # A bomb in a header: tarfile would hold it in memory.
      raise tarfile.ReadError(f"a part of {size:,} bytes")
    self.last = self._file.read(size)
    return self.last


def _decompressed(raw, path):
  """The file's content, by how it begins.

  Raises:
    ValueError: it is compressed in another way.
  """
  start = raw.read(6)
  raw.seek(0)
  if start.startswith(b"\x1f\x8b"):
    return gzip.open(raw)
  for magic, kind in (
    (b"PK", "zip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
  ):
    if start.startswith(magic):
      raise ValueError(
        f"{path} is a {kind} file: unpack it, and prepare the folder"
      )
  return raw


def _oddity(member, name, there):
  """Why a member is no image that can be taken, or None."""
  if member.issym() or member.islnk():
    return "is a link"
  if not member.isreg() or member.issparse():
    return "is no ordinary file"
  if name.startswith("/") or ".." in name.split("/"):
    return "has a path that leads elsewhere"
  if name in there:
    return "is there twice"
  return None


def _plain_name(name):
  """Without the "./" of `tar -c .`, and without empty parts."""
  parts = [part for part in name.split("/") if part not in ("", ".")]
  return ("/" if name.startswith("/") else "") + "/".join(parts)


def _is_hidden(name):
  """Also of macOS, which packs a ._a.jpg beside each a.jpg."""
  return any(p.startswith(".") and p != ".." for p in name.split("/"))


def _is_image(name):
  return _suffix(name) in IMAGE_SUFFIXES


def _suffix(name):
  return pathlib.PurePosixPath(name).suffix.lower() or "without a suffix"


def _identity(path):
  stat = os.stat(path)
  return stat.st_dev, stat.st_ino


def _checked_size(title, size):
  if size <= MAX_BYTES:
    return None
  return BadImageError(
    f"{title}: more than {format_bytes(MAX_BYTES)}, too large for an image"
  )


def read_whole(
  store: Folder | Archive, names: Collection[str]
) -> Iterator[tuple[str, bytes | BadImageError]]:
  """As `store.read`, but what cannot be decoded is a BadImageError as well."""

  def checked(name, encoded):
    if isinstance(encoded, bytes):
      try:
        decode_rgb(encoded, store.title(name))
      except BadImageError as e:
        return name, e
    return name, encoded

  # Threads: Pillow decodes without the interpreter's lock.
  threads = os.cpu_count() or 1
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    under_way = collections.deque()
    for name, encoded in store.read(names):
      under_way.append(pool.submit(checked, name, encoded))
      if len(under_way) > 4 * threads:
        yield under_way.popleft().result()
    while under_way:
      yield under_way.popleft().result()
