"""Where images come from: named sources with random access.

A source's specification is a frozen object that a config can name; opening it
reads what is needed to index it.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from flexivit_jax.core.faults import Fault
from flexivit_jax.data import images, splits
from flexivit_jax.data.modes import ANTIALIAS, Mode

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


class Source(Protocol):
  """Images with labels, by index.

  Attributes:
    classes: name of each class.
    fingerprint: changes when the examples, their order or labels do. Of files
      it sees names and sizes, not pixels.
    mode: how its images are decoded, and resized by transforms; a field, for
      `modes.open_source`.
    dtype: of its images; where there is none, they are pictures, u8.
  """

  classes: Sequence[str]
  fingerprint: str
  mode: Mode

  def __len__(self) -> int: ...

  def image(self, index: int) -> np.ndarray:
    """u8 `[h, w, 3]`, or `[h, w, c]` of another dtype."""

  def label(self, index: int) -> int | np.ndarray:
    """Its class; or its classes, i32 `[k]` and filled up with -1, where images
    may have several: the same k >= 2 for all."""

  def size(self, index: int) -> tuple[int, int]:
    """(height, width) of its image, without decoding pixels where possible."""

  def name(self, index: int) -> str:
    """What a message calls it: a path, where there is one."""

  def stored_order(self) -> Sequence[int] | np.ndarray:
    """Indices of all examples, neighbours where they are kept side by side."""


def dtype_of(source: Source) -> np.dtype:
  """Of its images: u8 of pictures, float32 of other arrays."""
  return getattr(source, "dtype", np.dtype(np.uint8))


class LabelError(Fault):
  """A label that names no class of the source, or labels that are too many."""


def padded_labels(labels: Sequence[int], count: int, name: str) -> np.ndarray:
  """Labels of one image as i32 `[count]`, filled up with -1.

  Raises:
    LabelError: they are more.
  """
  if len(labels) > count:
    raise LabelError(
      f"{name} has {len(labels)} labels: set max_labels, {count} now, to the "
      "most that an image has"
    )
  return np.array([*labels, *[-1] * (count - len(labels))], np.int32)


def _label(labels, index):
  return int(labels[index]) if labels.ndim == 1 else labels[index]


class SourceSpec(Protocol):
  """What a config says of a source."""

  split: str

  def open(self) -> Source: ...


@dataclasses.dataclass(frozen=True)
class InMemory:
  """A source whose pixels are held in memory.

  Attributes:
    pixels: u8 `[n, h, w, 3]`, or n images u8 `[h, w, 3]` of any sizes.
    labels: i64 `[n]`, or `[n, k]` filled up with -1.
  """

  pixels: np.ndarray | tuple[np.ndarray, ...]
  labels: np.ndarray
  classes: tuple[str, ...]
  mode: Mode = ANTIALIAS

  def __len__(self):
    return len(self.labels)

  def image(self, index):
    return self.pixels[index]

  def label(self, index):
    return _label(self.labels, index)

  def size(self, index):
    return self.pixels[index].shape[:2]

  def name(self, index):
    return f"image {index}"

  def stored_order(self):
    return range(len(self))

  @functools.cached_property
  def fingerprint(self):
    if isinstance(self.pixels, np.ndarray):
      parts = [self.pixels.tobytes()]
    else:
      # 2x3 pixels are other ones than 3x2.
      parts = [f"{x.shape}".encode() + x.tobytes() for x in self.pixels]
    return _fingerprint(
      self.classes, *parts, self.labels.astype("<i8").tobytes()
    )


@dataclasses.dataclass(frozen=True)
class RawDigits:
  """Digits as scikit-learn has them.

  Attributes:
    indices: i64 `[n]`, number of each in the whole set.
    grey: u8 `[n, 8, 8]`.
    labels: i64 `[n]`.
  """

  indices: np.ndarray
  grey: np.ndarray
  labels: np.ndarray
  classes: tuple[str, ...]


def read_digits(split: str) -> RawDigits:
  """Those of a split, "train" (1,297) or "test" (500), or of a slice of it.

  Raises:
    ValueError: there is no such split.
  """
  # Here, as it takes most of a second that other sources need not wait.
  from sklearn import datasets, model_selection

  raw = datasets.load_digits()
  train, test = model_selection.train_test_split(
    np.arange(len(raw.target)),
    test_size=500,
    stratify=raw.target,
    random_state=0,
  )
  parts = {"train": train, "test": test}
  name = splits.parse_split(split)[0]
  if name not in parts:
    raise ValueError(f"digits have no split {name!r}: take 'train' or 'test'")
  indices = parts[name]
  indices = indices[splits.slice_indices(split, len(indices))]
  grey = np.round(raw.images[indices] * 255 / 16).astype(np.uint8)
  classes = tuple(map(str, raw.target_names))
  return RawDigits(indices, grey, raw.target[indices], classes)


@dataclasses.dataclass(frozen=True)
class Digits:
  """The 1,797 handwritten digits that come with scikit-learn (UCI, 8x8 grey).

  Attributes:
    split: "train" (1,297) or "test" (500), stratified with seed 0; slices
      such as "train[:1100]" are allowed.
    side: pixels to which the 8x8 images are resized, bilinearly.
  """

  split: str = "train"
  side: int = 24

  def __post_init__(self):
    if not 1 <= self.side <= 1024:
      raise ValueError(f"side {self.side}: give 1 to 1024 pixels")

  def open(self) -> InMemory:
    raw = read_digits(self.split)
    pixels = np.stack(
      [
        images.resize(np.repeat(g[..., None], 3, -1), (self.side,) * 2)
        for g in raw.grey
      ]
    )
    return InMemory(pixels, raw.labels, raw.classes)


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
    name = self.name(index)
    try:
      encoded = pathlib.Path(name).read_bytes()
    except OSError as e:
      raise images.BadImageError(f"{name}: cannot read it: {e.strerror}") from e
    return self.mode.decode(encoded, name, exif_transpose=self.exif_transpose)

  def label(self, index):
    return _label(self.labels, index)

  def size(self, index):
    name = self.name(index)
    try:
      file = open(name, "rb")
    except OSError as e:
      raise images.BadImageError(f"{name}: cannot read it: {e.strerror}") from e
    with file:
      return images.read_hw(file, name, exif_transpose=self.exif_transpose)

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
    path: the directory; a relative one becomes absolute, so that a run finds
      its data again from elsewhere.
    split: its sub-directory, or a slice of it such as "train[:90%]".
    exif_transpose: whether to turn images as their EXIF orientation says.
  """

  path: str
  split: str = "train"
  exif_transpose: bool = False

  def __post_init__(self):
    path = pathlib.Path(self.path).expanduser().absolute()
    object.__setattr__(self, "path", str(path))

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
      _fingerprint(
        classes, *(f"{p} {s}".encode() for p, s in zip(paths, sizes))
      ),
      self.exif_transpose,
    )


def _fingerprint(classes, *parts: bytes) -> str:
  digest = hashlib.sha256()
  for part in (*(name.encode() for name in classes), *parts):
    # Lengths keep ("ab", "c") apart from ("a", "bc").
    digest.update(len(part).to_bytes(8, "little") + part)
  return digest.hexdigest()[:16]
