"""Named sources of images with random access.

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

from flexivit_jax.core.errors import Fault
from flexivit_jax.data.pixels.preprocessing import ANTIALIAS, Mode


class Source(Protocol):
  """Images with labels, by index.

  Attributes:
    classes: name of each class.
    fingerprint: changes when the examples, their order or labels do. Of files
      it sees names and sizes, not pixels.
    mode: how its images are decoded, and resized by transforms; a field, for
      `preprocessing.open_source`.
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
    """Name of it in messages: a path, where there is one."""

  def stored_order(self) -> Sequence[int] | np.ndarray:
    """Indices of all examples, neighbours where they are kept side by side."""


def dtype_of(source: Source) -> np.dtype:
  """Type of a source's images: u8 of pictures, float32 of other arrays."""
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


def make_absolute(spec: "SourceSpec", field: str) -> None:
  """Makes a path of a frozen spec absolute, for runs that resume elsewhere."""
  path = pathlib.Path(getattr(spec, field)).expanduser().absolute()
  object.__setattr__(spec, field, str(path))


def label_of(labels, index):
  return int(labels[index]) if labels.ndim == 1 else labels[index]


class SourceSpec(Protocol):
  """Specification of a source in a config."""

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
    return label_of(self.labels, index)

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
    return fingerprint_of(
      self.classes, *parts, self.labels.astype("<i8").tobytes()
    )


def fingerprint_of(classes, *parts: bytes) -> str:
  digest = hashlib.sha256()
  for part in (*(name.encode() for name in classes), *parts):
    # Lengths keep ("ab", "c") apart from ("a", "bc").
    digest.update(len(part).to_bytes(8, "little") + part)
  return digest.hexdigest()[:16]
