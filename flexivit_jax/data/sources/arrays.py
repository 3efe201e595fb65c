"""Grids of numbers other than pictures, for example latents."""

import dataclasses
import zipfile
from typing import ClassVar

import numpy as np

from flexivit_jax.core.text import listed
from flexivit_jax.data.sources import source, splits


@dataclasses.dataclass(frozen=True)
class Grids(source.InMemory):
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
      Their names are its array `classes`, if there is one. None: all are of one
      class, for what is learned without.
    scale: that the numbers are multiplied by; what is made of them again is
      divided by it.
  """

  path: str
  split: str = "all"
  images: str = "latents"
  labels: str | None = "labels"
  scale: float = 1.0

  def __post_init__(self):
    source.make_absolute(self, "path")
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
    images = arrays[self.images]
    if images.ndim != 4 or not np.issubdtype(images.dtype, np.floating):
      raise ValueError(
        f"{self.path}: {self.images} is {images.dtype} of shape "
        f"{images.shape}: expected floats [n, h, w, c]"
      )
    if not images.size:
      raise ValueError(f"{self.path}: {self.images} of {images.shape} is empty")
    labels, names = self._classes(arrays, len(images))
    taken = splits.slice_indices(self.split, len(images))
    images = images[taken].astype(np.float32) * np.float32(self.scale)
    if not np.isfinite(images).all():
      raise ValueError(
        f"{self.path}: {self.images} has numbers that are not finite"
      )
    return Grids(images, labels[taken].astype(np.int64), names)

  def _classes(self, arrays, count):
    """The label of each image, and the names of the classes."""
    if self.labels is None:
      return np.zeros(count, np.int64), ("all",)
    labels = arrays[self.labels]
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
      raise ValueError(
        f"{self.path}: {self.labels} is {labels.dtype} of shape "
        f"{labels.shape}: expected whole numbers [{count}]"
      )
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
      raise ValueError(
        f"{self.path}: {self.labels} are {low} to {high}: classes are counted "
        "from 0 on"
      )
    classes = arrays.get("classes", np.arange(high + 1))
    if high >= len(classes):
      raise ValueError(
        f"{self.path}: {self.labels} are {low} to {high}, and its array "
        f"'classes' has {len(classes)} names: give 0 to {len(classes) - 1}"
      )
    return labels, tuple(map(str, classes.tolist()))

  def _read(self):
    try:
      with np.load(self.path, allow_pickle=False) as file:
        wanted = {self.images, self.labels, "classes"} & set(file.files)
        arrays, there = {name: file[name] for name in wanted}, file.files
    except FileNotFoundError as e:
      raise ValueError(f"no file {self.path}") from e
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as e:
      # numpy's own words advise to unpickle what nobody should.
      unpickled = "it has more than numbers, or is none"
      reason = unpickled if "pickle" in str(e) else e
      raise ValueError(
        f"{self.path} is no whole .npz file of numbers ({reason}): write it "
        "with numpy.savez(path, latents=..., labels=...)"
      ) from e
    for field, without in (
      ("images", ""),
      ("labels", ", or labels=None where there are none"),
    ):
      name = getattr(self, field)
      if name is not None and name not in arrays:
        raise ValueError(
          f"{self.path} has no array {name!r}: it has {listed(sorted(there))}; "
          f"give {field}=NAME{without}"
        )
    return arrays
