"""Images with any number of labels each, listed in a text file."""

import dataclasses
import hashlib
import json
import pathlib

import numpy as np

from flexivit_jax.data.sources import splits
from flexivit_jax.data.sources.image_folder import ImageFiles
from flexivit_jax.data.sources.source import make_absolute, padded_labels


@dataclasses.dataclass(frozen=True)
class ListedImages:
  """Files with several labels: PATH/SPLIT.tsv, PATH/classes.txt.

  A line of SPLIT.tsv is an image's path below PATH and the names of its
  classes, none or more, apart by tabs. classes.txt has one name in each line.

  Attributes:
    path: the directory; a relative one becomes absolute.
    split: name of the list, or a slice of it such as "train[:90%]".
    exif_transpose: whether to turn images as their EXIF orientation says.
  """

  path: str
  split: str = "train"
  exif_transpose: bool = False

  def __post_init__(self):
    make_absolute(self, "path")

  def open(self) -> ImageFiles:
    """Reads the lists; the labels are i32 `[n, k]`, filled up with -1.

    Raises:
      ValueError: a list is missing, empty or wrong, or a class is not known.
    """
    root = pathlib.Path(self.path)
    classes = [line.strip() for _, line in _lines(root / "classes.txt")]
    numbers = {name: i for i, name in enumerate(classes)}
    if len(numbers) < len(classes):
      twice = next(x for i, x in enumerate(classes) if numbers[x] != i)
      raise ValueError(f"{root}/classes.txt has {twice!r} twice")
    paths, labels = [], []
    file = root / f"{splits.parse_split(self.split)[0]}.tsv"
    for number, line in _lines(file):
      path, *names = line.split("\t")
      for name in names:
        if name not in numbers:
          raise ValueError(
            f"{file}:{number}: class {name!r} is not in {root}/classes.txt"
          )
      if len(set(names)) < len(names):
        raise ValueError(f"{file}:{number}: a class is there twice")
      # No other's file, through a list that came with the data.
      if ".." in pathlib.PurePath(path).parts or path.startswith("/"):
        raise ValueError(
          f"{file}:{number}: {path!r} leads elsewhere: give paths below {root}"
        )
      paths.append(path)
      labels.append([numbers[name] for name in names])
    # A column alone would look like the labels of images that have one each.
    most = max(2, *map(len, labels))
    taken = splits.slice_indices(self.split, len(paths))
    listed = [(paths[i], labels[i]) for i in taken]
    digest = hashlib.sha256(json.dumps([classes, listed]).encode())
    padded = [padded_labels(own, most, path) for path, own in listed]
    return ImageFiles(
      root,
      tuple(path for path, _ in listed),
      np.stack(padded),
      tuple(classes),
      digest.hexdigest()[:16],
      self.exif_transpose,
    )


def _lines(path: pathlib.Path) -> list[tuple[int, str]]:
  """Numbers and texts of the lines that are not blank."""
  try:
    text = path.read_text(encoding="utf-8")
  except (OSError, ValueError) as e:
    raise ValueError(f"cannot read {path}: {e}") from e
  lines = [
    (number, line.rstrip("\r"))
    for number, line in enumerate(text.split("\n"), 1)
    if line.strip()
  ]
  if not lines:
    raise ValueError(f"{path} is empty")
  return lines
