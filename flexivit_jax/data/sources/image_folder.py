"""Folders of images, one folder for each class."""

import contextlib
import dataclasses
import functools
import pathlib

import numpy as np

from flexivit_jax.data.pixels import decode
from flexivit_jax.data.pixels.preprocessing import ANTIALIAS, Mode
from flexivit_jax.data.sources import splits
from flexivit_jax.data.sources.source import (
  fingerprint_of,
  label_of,
  make_absolute,
)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


@dataclasses.dataclass(frozen=True)
class ImageFiles:
  """A source whose images are files, read when asked for."""

  root: pathlib.Path
  paths: tuple[str, ...]
  labels: np.ndarray
  classes: tuple[str, ...]
  fingerprint: str
  exif_transpose: bool = False
  mode: Mode = ANTIALIAS

  def __len__(self):
    return len(self.paths)

  def image(self, index):
    with self._opened(index) as file:
      encoded = file.read()
    return self.mode.decode(
      encoded, self.name(index), exif_transpose=self.exif_transpose
    )

  def label(self, index):
    return label_of(self.labels, index)

  def size(self, index):
    with self._opened(index) as file:
      return decode.read_hw(
        file, self.name(index), exif_transpose=self.exif_transpose
      )

  @contextlib.contextmanager
  def _opened(self, index):
    try:
      with open(self.name(index), "rb") as file:
        yield file
    except OSError as e:
      raise decode.BadImageError(
        f"{self.name(index)}: cannot read it: {e.strerror}"
      ) from e

  def name(self, index):
    return str(self.root / self.paths[index])

  def stored_order(self):
    return self._stored_order

  @functools.cached_property
  def _stored_order(self):
    return np.argsort(np.asarray(self.paths)).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class ImageFolder:
  """A directory of images in one folder per class: PATH/SPLIT/CLASS/*.jpg.

  Attributes:
    path: the directory; a relative one becomes absolute.
    split: its sub-directory, or a slice of it such as "train[:90%]".
    exif_transpose: whether to turn images as their EXIF orientation says.
  """

  path: str
  split: str = "train"
  exif_transpose: bool = False

  def __post_init__(self):
    make_absolute(self, "path")

  def open(self) -> ImageFiles:
    root = pathlib.Path(self.path) / splits.parse_split(self.split)[0]
    if not root.is_dir():
      raise ValueError(
        f"no directory {root}: images belong in {root}/CLASS/*.jpg"
      )
    classes = sorted(
      p.name
      for p in root.iterdir()
      if p.is_dir() and not p.name.startswith(".")
    )
    files = [
      (f"{name}/{path.name}", label, path.stat().st_size)
      for label, name in enumerate(classes)
      for path in sorted((root / name).iterdir())
      if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not files:
      raise ValueError(
        f"no image in {root}/CLASS/: looked for {', '.join(IMAGE_SUFFIXES)}"
      )
    empty = sorted(set(classes) - {name.split("/")[0] for name, *_ in files})
    if empty:
      raise ValueError(f"no image in {root / empty[0]}: remove or fill it")
    files = [files[i] for i in splits.slice_indices(self.split, len(files))]
    paths, labels, sizes = zip(*files, strict=True)
    return ImageFiles(
      root,
      paths,
      np.asarray(labels),
      tuple(classes),
      fingerprint_of(
        classes, *(f"{p} {s}".encode() for p, s in zip(paths, sizes))
      ),
      self.exif_transpose,
    )
