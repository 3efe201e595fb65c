"""Metadata of a dataset that TFDS prepared: its splits, files and features.

Read without TFDS, whose reader imports whatever module features.json names.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

from flexivit_jax.core.text import quoted
from flexivit_jax.data.sources.array_record import Shard


@dataclasses.dataclass(frozen=True)
class Prepared:
  """Metadata of a prepared dataset.

  Attributes:
    name: with config and version.
    stem: what its file names start with.
    splits: split to (number of records of each shard, file name template).
    features: name to class and description.
  """

  directory: pathlib.Path
  name: str
  stem: str
  formats: Sequence[str]
  splits: Mapping[str, tuple[list[int], str]]
  features: Mapping[str, tuple[str, Mapping]]

  @classmethod
  def read(cls, directory, root):
    info = _read_json(directory / "dataset_info.json")
    features = _read_json(directory / "features.json")
    try:
      return cls(
        directory,
        directory.relative_to(root).as_posix(),
        info["name"],
        [
          info.get("fileFormat", "tfrecord"),
          *info.get("alternativeFileFormats", ()),
        ],
        {
          split["name"]: (
            [int(records) for records in split.get("shardLengths", ())],
            split.get("filepathTemplate")
            or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
          )
          for split in info.get("splits", ())
        },
        {
          key: _kind(feature)
          for key, feature in features["featuresDict"]["features"].items()
        },
      )
    except (AttributeError, KeyError, TypeError, ValueError) as e:
      raise ValueError(
        f"{directory}: its dataset_info.json or features.json is not what TFDS "
        f"writes ({type(e).__name__}: {e}); prepare the dataset again"
      ) from e

  def only(self, kind, field, chosen):
    """Name of the one feature of a kind, or the chosen one of several."""
    found = [key for key, (its, _) in self.features.items() if its == kind]
    if not found:
      there = [f"{key} ({its})" for key, (its, _) in self.features.items()]
      raise ValueError(
        f"{self.name} has no {kind} feature, but {', '.join(there) or 'none'}: "
        "take a dataset of images with labels"
      )
    if chosen not in (None, *found) or (chosen is None and len(found) > 1):
      has = f"no {kind} feature {chosen!r}" if chosen else f"several {kind}s"
      raise ValueError(f"{self.name} has {has}: set {field} to {quoted(found)}")
    return chosen or found[0]

  def label_key(self, chosen) -> tuple[str, bool]:
    """The label's feature, and whether it holds several of an image."""
    kinds = {key: kind for key, (kind, _) in self.features.items()}
    alone = "ClassLabel" in kinds.values()
    if kinds.get(chosen) == _SEVERAL or (
      chosen is None and not alone and _SEVERAL in kinds.values()
    ):
      return self.only(_SEVERAL, "label_key", chosen), True
    return self.only("ClassLabel", "label_key", chosen), False

  def check_image(self, key):
    description = self.features[key][1].get("image") or {}
    dtype = description.get("dtype") or "uint8"
    # TFDS writes floats as if their bytes were pixels.
    if dtype not in ("uint8", "uint16"):
      raise ValueError(
        f"feature {key!r} of {self.name} holds {dtype} pixels: only uint8 and "
        "uint16 are images"
      )

  def classes(self, key):
    description = self.features[key][1].get("classLabel") or {}
    count = int(description.get("numClasses", 0))
    if not count:
      raise ValueError(f"feature {key!r} of {self.name} has no classes")
    path = self.directory / f"{key.replace('/', '.')}.labels.txt"
    if not path.is_file():
      return tuple(map(str, range(count)))
    lines = path.read_text(encoding="utf-8").split("\n")
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != count:
      raise ValueError(
        f"{path} has {len(names)} names for {count} classes: restore it or "
        f"prepare {self.name} again"
      )
    return names

  def shards(self, split):
    if split not in self.splits:
      raise ValueError(
        f"{self.name} has no split {split!r}: take {quoted(self.splits)}"
      )
    lengths, template = self.splits[split]
    if not sum(lengths):
      raise ValueError(
        f"split {split!r} of {self.name} is empty: its splits are "
        + quoted(self.splits)
      )
    digits = max(5, len(str(len(lengths))))
    count = f"{len(lengths):0{digits}}"
    shards = []
    for i, records in enumerate(lengths):
      index = f"{i:0{digits}}"
      values = {
        "DATASET": self.stem,
        "SPLIT": split,
        "FILEFORMAT": "array_record",
        "SHARD_INDEX": index,
        "NUM_SHARDS": count,
        "SHARD_X_OF_Y": f"{index}-of-{count}",
      }
      file = template
      for variable, value in values.items():
        file = file.replace(f"{{{variable}}}", value)
      shards.append(self._shard(file, records))
    return tuple(shards)

  def _shard(self, file, records):
    path, relative = self.directory / file, pathlib.PurePath(file)
    if relative.is_absolute() or ".." in relative.parts:
      raise ValueError(
        f"{self.directory}: dataset_info.json names a shard elsewhere, {file!r}"
      )
    try:
      stat = path.stat()
      problem = None if stat.st_size else "it is empty"
    except OSError as e:
      problem = e.strerror
    if problem:
      raise ValueError(
        f"shard {path}: {problem}; restore it or prepare {self.name} again"
      )
    return Shard(path, records, stat.st_size, stat.st_mtime_ns)


_SEVERAL = "Sequence(ClassLabel)"


def _kind(feature) -> tuple[str, Mapping]:
  """A feature's class and description; of several labels, that of one."""
  kind = feature["pythonClassName"].rpartition(".")[2]
  if kind == "Sequence":
    inner, description = _kind(feature["sequence"]["feature"])
    return (_SEVERAL, description) if inner == "ClassLabel" else (kind, feature)
  return kind, feature


def _read_json(path):
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as e:
    raise ValueError(
      f"cannot read {path}: {e}; restore it or prepare the dataset again"
    ) from e
