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

from flexivit_jax.data import images, splits

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


class Source(Protocol):
  """Images with labels, by index.

  Attributes:
    classes: name of each class.
    fingerprint: changes when the examples, their order or labels do. Of files
      it sees names and sizes, not pixels.
  """

  classes: Sequence[str]
  fingerprint: str

  def __len__(self) -> int: ...

  def image(self, index: int) -> np.ndarray:
    """u8 `[h, w, 3]`."""

  def size(self, index: int) -> tuple[int, int]:
    """(height, width) of that image, for less than decoding it."""

  def label(self, index: int) -> int: ...

  def name(self, index: int) -> str:
    """What a message calls it: a path, where there is one."""


class SourceSpec(Protocol):
  """What a config says of a source."""

  split: str

  def open(self) -> Source: ...


@dataclasses.dataclass(frozen=True)
class InMemory:
  """A source whose pixels are held as one array."""

  pixels: np.ndarray
  labels: np.ndarray
  classes: tuple[str, ...]

  def __len__(self):
    return len(self.labels)

  def image(self, index):
    return self.pixels[index]

  def size(self, index):
    return self.pixels.shape[1:3]

  def label(self, index):
    return int(self.labels[index])

  def name(self, index):
    return f"image {index}"

  @functools.cached_property
  def fingerprint(self):
    return _fingerprint(
      self.classes, self.pixels.tobytes(), self.labels.astype("<i8").tobytes()
    )


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
    name = splits.parse_split(self.split)[0]
    if name not in parts:
      raise ValueError(f"digits have no split {name!r}: take 'train' or 'test'")
    indices = parts[name]
    indices = indices[splits.slice_indices(self.split, len(indices))]
    grey = np.round(raw.images[indices] * 255 / 16).astype(np.uint8)
    pixels = np.stack(
      [
        images.resize(np.repeat(g[..., None], 3, -1), (self.side,) * 2)
        for g in grey
      ]
    )
    classes = tuple(map(str, raw.target_names))
    return InMemory(pixels, raw.target[indices], classes)


@dataclasses.dataclass(frozen=True)
class ImageFiles:
  """A source whose images are files, read when asked for."""

  root: pathlib.Path
  paths: tuple[str, ...]
  labels: np.ndarray
  classes: tuple[str, ...]
  fingerprint: str
  exif_transpose: bool = False

  def __len__(self):
    return len(self.paths)

  def image(self, index):
    return images.decode_rgb(
      *self._read(index), exif_transpose=self.exif_transpose
    )

  def size(self, index):
    return images.size(*self._read(index), exif_transpose=self.exif_transpose)

  def _read(self, index):
    name = self.name(index)
    try:
      encoded = pathlib.Path(name).read_bytes()
    except OSError as e:
      raise images.BadImageError(f"{name}: cannot read it: {e.strerror}") from e
    return encoded, name

  def label(self, index):
    return int(self.labels[index])

  def name(self, index):
    return str(self.root / self.paths[index])


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
