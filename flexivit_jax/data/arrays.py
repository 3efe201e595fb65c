"""Grids of numbers that are no pictures: latents of an autoencoder, say."""

import dataclasses
import pathlib
import zipfile
from typing import ClassVar

import numpy as np

from flexivit_jax.core.text import listed
from flexivit_jax.data import sources, splits


@dataclasses.dataclass(frozen=True)
class Grids(sources.InMemory):
  """Arrays f32 `[h, w, c]` of one size, held in memory."""

  dtype: ClassVar[np.dtype] = np.dtype(np.float32)


@dataclasses.dataclass(frozen=True)
class Arrays:
  """Arrays of an .npz file, of any number of channels.

  Attributes:
    path: of the file; a relative one becomes absolute.
    split: a slice of "all": "all[:90%]".
    images: name of the array of floats `[n, h, w, c]` in it.
    labels: name of the array of whole numbers `[n]` in it: classes from 0 on.
      Their names are its array `classes`, if there is one.
    scale: that the numbers are multiplied by; what is made of them again is
      divided by it.
  """

  path: str
  split: str = "all"
  images: str = "latents"
  labels: str = "labels"
  scale: float = 1.0

  def __post_init__(self):
    path = pathlib.Path(self.path).expanduser().absolute()
    object.__setattr__(self, "path", str(path))
    if not self.scale > 0:
      raise ValueError(f"scale is {self.scale}: give more than 0")

  def open(self) -> Grids:
    """Reads the file.

    Raises:
      ValueError: it is not there, or holds something else.
    """
    name = splits.parse_split(self.split)[0]
    if name != "all":
      raise ValueError(
        f"{self.path} has no split {name!r}: give 'all', or a slice of it such "
        "as 'all[:90%]'"
      )
    arrays = self._read()
    images, labels = arrays[self.images], arrays[self.labels]
    if images.ndim != 4 or not np.issubdtype(images.dtype, np.floating):
      raise ValueError(
        f"{self.path}: {self.images} is {images.dtype} of shape "
        f"{images.shape}: expected floats [n, h, w, c]"
      )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
      raise ValueError(
        f"{self.path}: {self.labels} is {labels.dtype} of shape "
        f"{labels.shape}: expected whole numbers [{len(images)}]"
      )
    if not images.size:
      raise ValueError(f"{self.path}: {self.images} of {images.shape} is empty")
    highest = int(labels.max())
    classes = arrays.get("classes", np.arange(highest + 1))
    if labels.min() < 0 or highest >= len(classes):
      raise ValueError(
        f"{self.path}: {self.labels} are {labels.min()} to {highest}: with "
        f"{len(classes)} classes, they are 0 to {len(classes) - 1}"
      )
    taken = splits.slice_indices(self.split, len(images))
    images = images[taken].astype(np.float32) * np.float32(self.scale)
    if not np.isfinite(images).all():
      raise ValueError(
        f"{self.path}: {self.images} has numbers that are not finite"
      )
    names = tuple(map(str, classes.tolist()))
    return Grids(images, labels[taken].astype(np.int64), names)

  def _read(self):
    try:
      with np.load(self.path, allow_pickle=False) as file:
        wanted = {self.images, self.labels, "classes"} & set(file.files)
        arrays, there = {name: file[name] for name in wanted}, file.files
    except FileNotFoundError as e:
      raise ValueError(f"no file {self.path}") from e
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as e:
      raise ValueError(
        f"{self.path} is no whole .npz file of numbers ({e}): write it with "
        "numpy.savez(path, latents=..., labels=...)"
      ) from e
    for field in ("images", "labels"):
      name = getattr(self, field)
      if name not in arrays:
        raise ValueError(
          f"{self.path} has no array {name!r}: it has {listed(sorted(there))}; "
          f"give {field}=NAME"
        )
    return arrays
