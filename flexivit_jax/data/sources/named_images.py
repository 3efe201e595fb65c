"""The images that a user names: files, and folders of them."""

import collections
import dataclasses
import pathlib
from collections.abc import Iterable, Mapping

import numpy as np

from flexivit_jax.data.prepare.archives import Folder
from flexivit_jax.data.sources.image_folder import ImageFiles


@dataclasses.dataclass(frozen=True)
class Found:
  """Images found in files and folders.

  Attributes:
    paths: of the images, each once, as they were named or start.
    others: how many other files the folders hold, by suffix.
  """

  paths: tuple[str, ...]
  others: Mapping[str, int]


def find(places: Iterable[str]) -> Found:
  """The images in files and folders, in the order in which those are named.

  A folder's are those of the usual suffixes at any depth, sorted by the parts
  of their paths; links are followed, hidden files and folders left out. A file
  that is named itself may have any suffix.

  Raises:
    ValueError: a place is nothing, or a folder without images.
    OSError: a folder cannot be read.
  """
  paths: dict[str, None] = {}
  others = collections.Counter()
  for place in places:
    path = pathlib.Path(place)
    # pathlib takes "" for the folder that one is in.
    if not place or not path.exists():
      raise ValueError(f"{place or repr(place)}: no such file or directory")
    if path.is_dir():
      folder = Folder(path)
      listing = folder.list()
      others.update(listing.others)
      names = sorted(listing.sizes, key=lambda name: name.split("/"))
      paths.update(dict.fromkeys(map(folder.title, names)))
    elif path.is_file():
      paths[str(path)] = None
    else:
      # To read a pipe could wait for ever.
      raise ValueError(f"{place} is neither a file nor a folder")
  return Found(tuple(paths), others)


@dataclasses.dataclass(frozen=True)
class NamedImages:
  """A source of files of any place, without labels: all have label 0.

  Attributes:
    paths: of the files.
    exif_transpose: whether to turn images as their EXIF orientation says.
  """

  paths: tuple[str, ...]
  exif_transpose: bool = False

  split = "all"

  def open(self) -> ImageFiles:
    return ImageFiles(
      root=pathlib.Path(),
      paths=self.paths,
      labels=np.zeros(len(self.paths), np.int32),
      classes=("unknown",),
      fingerprint="",
      exif_transpose=self.exif_transpose,
    )
