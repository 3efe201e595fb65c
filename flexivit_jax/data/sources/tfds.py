"""Datasets that TensorFlow Datasets (TFDS) prepared as ArrayRecord."""

import dataclasses
import difflib
import hashlib
import json
import os
import pathlib
import re
import shlex

import numpy as np

from flexivit_jax.core.text import quoted
from flexivit_jax.data.sources import splits as splits_lib
from flexivit_jax.data.sources.array_record import ArrayRecords
from flexivit_jax.data.sources.source import make_absolute
from flexivit_jax.data.sources.tfds_metadata import Prepared

# A name becomes a path, so it has no "..", no "\" and no "/" in front.
_NAME = re.compile(
  r"(?P<name>[a-zA-Z]\w*)(/(?P<config>\w[\w+.-]*))?"
  r"(:(?P<version>\d+\.\d+\.\d+))?",
  re.ASCII,
)
_VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)


def data_root(data_dir: str | None) -> pathlib.Path:
  """A data_dir, absolute; None: $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
  default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  return pathlib.Path(data_dir or default).expanduser().absolute()


def parse_name(dataset: str) -> tuple[str, str | None, str | None]:
  """Name, config and version of "name/config:1.0.0"; the latter may lack.

  Raises:
    ValueError: not of that form.
  """
  match = _NAME.fullmatch(dataset)
  if not match:
    raise ValueError(
      f"dataset {dataset!r}: give a name of TFDS such as 'cifar10', "
      "'imagenet2012:5.1.0' or 'my_set/config'"
    )
  return match["name"], match["config"], match["version"]


@dataclasses.dataclass(frozen=True)
class Tfds:
  """A dataset that TFDS prepared with `file_format="array_record"`.

  Attributes:
    dataset: "cifar10", "imagenet2012:5.1.0" or "my_set/config"; without a
      version, the newest that is prepared.
    split: one of the dataset's, or a slice of it such as "train[:90%]".
    data_dir: where datasets are prepared. None: $TFDS_DATA_DIR, or else
      ~/tensorflow_datasets.
    image_key: name of the image's feature, if there are several.
    label_key: name of the label's feature, if there are several.
    exif_transpose: whether to turn images as their EXIF orientation says.
    max_labels: most labels of an image, at least 2, where its feature is a
      Sequence(ClassLabel).
  """

  dataset: str
  split: str = "train"
  data_dir: str | None = None
  image_key: str | None = None
  label_key: str | None = None
  exif_transpose: bool = False
  max_labels: int | None = None

  def __post_init__(self):
    if self.max_labels is not None and not 2 <= self.max_labels <= 4096:
      raise ValueError(f"max_labels is {self.max_labels}: give 2 to 4096")
    if self.data_dir is not None:
      make_absolute(self, "data_dir")

  def open(self) -> ArrayRecords:
    """Reads the metadata and the first record.

    Raises:
      ValueError: there is no such dataset or split, its files are missing or
        of another format, or it has not one image and one label.
      DamagedRecordError: the first record cannot be read.
    """
    root = data_root(self.data_dir)
    prepared = Prepared.read(_find(self.dataset, root), root)
    if "array_record" not in prepared.formats:
      other = root.with_name(f"{root.name}-array_record")
      raise ValueError(
        f"{prepared.directory} holds {prepared.formats[0]} files, which only "
        "TensorFlow reads. Prepare them as array_record in another data_dir: "
        + _command(self.dataset, other)
      )
    part = splits_lib.parse_split(self.split)[0]
    image_key = prepared.only("Image", "image_key", self.image_key)
    label_key, several = prepared.label_key(self.label_key)
    if several != (self.max_labels is not None):
      raise ValueError(
        f"feature {label_key!r} of {prepared.name} holds "
        + (
          "several labels of an image: set max_labels to the most that one has"
          if several
          else "one label of each image: leave max_labels out"
        )
      )
    prepared.check_image(image_key)
    classes = prepared.classes(label_key)
    shards = prepared.shards(part)
    starts = np.cumsum([0, *(shard.records for shard in shards)])
    indices = splits_lib.slice_indices(self.split, starts[-1])
    parts = [prepared.name, part, image_key, label_key, classes]
    parts += [(p.path.name, p.bytes, p.records) for p in shards]
    digest = hashlib.sha256(json.dumps(parts).encode())
    digest.update(indices.astype("<i8").tobytes())
    source = ArrayRecords(
      f"{prepared.name} {part}",
      shards,
      starts,
      indices,
      classes,
      digest.hexdigest()[:16],
      (image_key, label_key),
      self.exif_transpose,
      self.max_labels,
    )
    if not several and source.label(0) == -1:
      raise ValueError(
        f"split {part!r} of {prepared.name} has no labels: its splits are "
        + quoted(prepared.splits)
      )
    return source


def _find(dataset, root) -> pathlib.Path:
  """The directory of a prepared dataset's newest, or named, version."""
  name, config, version = parse_name(dataset)
  if not root.is_dir():
    raise ValueError(
      f"no directory {root}: set data_dir to where {dataset!r} is prepared, "
      f"or prepare it there: {_command(dataset, root)}"
    )
  home = root / name / (config or "")
  versions = _versions(home.glob("*/dataset_info.json"))
  if versions and version in (None, *versions):
    return home / (version or versions[-1])
  there = [*root.glob("*/*/dataset_info.json")]
  there += root.glob("*/*/*/dataset_info.json")
  homes = sorted({path.parents[1] for path in there})
  names = {home.relative_to(root).parts[0]: None for home in homes}
  near = difflib.get_close_matches(name, names, n=1)
  full = [
    f"{home.relative_to(root).as_posix()}:{version}"
    for home in homes
    for version in _versions(home.glob("*/dataset_info.json"))
    if not near or home.relative_to(root).parts[0] == near[0]
  ]
  hint = f"; there: {quoted(full[:9])}" if full else ", nor is any other"
  raise ValueError(
    f"{dataset!r} is not prepared in {root}"
    + (f" (did you mean {quoted(full)}?)" if near else hint)
    + f". Prepare it: {_command(dataset, root)}"
  )


def _versions(paths):
  names = [path.parent.name for path in paths]
  names = [name for name in names if _VERSION.fullmatch(name)]
  return sorted(names, key=lambda name: tuple(map(int, name.split("."))))


def _command(dataset, root):
  return (
    f"python -m flexivit_jax prepare tfds:{dataset} --data_dir "
    f"{shlex.quote(str(root))} (docs/data.md)"
  )
