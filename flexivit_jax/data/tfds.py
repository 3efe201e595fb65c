"""Datasets that TensorFlow Datasets (TFDS) prepared as ArrayRecord.

Read from their files, without TensorFlow and without TFDS: its reader imports
whatever module a dataset's features.json names.
"""

import dataclasses
import difflib
import functools
import hashlib
import json
import os
import pathlib
import re
import resource
import threading
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from array_record.python import array_record_module

from flexivit_jax.core.faults import Fault
from flexivit_jax.data import images, splits

# A name becomes a path, so it has no "..", no "\" and no "/" in front.
_NAME = re.compile(
  r"(?P<name>[a-zA-Z]\w*)(/(?P<config>\w[\w+.-]*))?"
  r"(:(?P<version>\d+\.\d+\.\d+))?",
  re.ASCII,
)
_VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)
_ENDS = "the file ends before it"


class DamagedRecordError(Fault):
  """A record that cannot be read; the text names its shard and its place."""


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
  """

  dataset: str
  split: str = "train"
  data_dir: str | None = None
  image_key: str | None = None
  label_key: str | None = None
  exif_transpose: bool = False

  def __post_init__(self):
    if self.data_dir is not None:
      # A run finds its data again from elsewhere.
      path = pathlib.Path(self.data_dir).expanduser().absolute()
      object.__setattr__(self, "data_dir", str(path))

  def open(self) -> "ArrayRecords":
    """Reads the metadata and the first record.

    Raises:
      ValueError: there is no such dataset or split, its files are missing or
        of another format, or it has not one image and one label.
      DamagedRecordError: the first record cannot be read.
    """
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    root = pathlib.Path(self.data_dir or default).expanduser().absolute()
    prepared = _Prepared.read(_find(self.dataset, root), root)
    if "array_record" not in prepared.formats:
      other = root.with_name(f"{root.name}-array_record")
      raise ValueError(
        f"{prepared.directory} holds {prepared.formats[0]} files, which only "
        "TensorFlow reads. Prepare them as array_record in another data_dir, "
        + _command(self.dataset, other)
      )
    part = splits.parse_split(self.split)[0]
    image_key = prepared.only("Image", "image_key", self.image_key)
    label_key = prepared.only("ClassLabel", "label_key", self.label_key)
    prepared.check_image(image_key)
    classes = prepared.classes(label_key)
    shards = prepared.shards(part)
    starts = np.cumsum([0, *(shard.records for shard in shards)])
    indices = splits.slice_indices(self.split, starts[-1])
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
    )
    if source.label(0) == -1:
      raise ValueError(
        f"split {part!r} of {prepared.name} has no labels: its splits are "
        + _list(prepared.splits)
      )
    return source


@dataclasses.dataclass(frozen=True)
class Shard:
  """One file of a split; `changed_ns` tells it from a later one."""

  path: pathlib.Path
  records: int
  bytes: int
  changed_ns: int


@dataclasses.dataclass(frozen=True)
class ArrayRecords:
  """A source whose images are records of files, read when asked for.

  Its `image` and `label` raise DamagedRecordError, and `image` BadImageError.

  Attributes:
    title: dataset, version and split, for messages.
    shards: of the split.
    starts: i64 `[shards + 1]`, the number of each one's first record.
    indices: i64 `[n]`, record numbers in the split.
    keys: of the image's and the label's feature.
  """

  title: str
  shards: tuple[Shard, ...]
  starts: np.ndarray
  indices: np.ndarray
  classes: tuple[str, ...]
  fingerprint: str
  keys: tuple[str, str]
  exif_transpose: bool

  def __len__(self):
    return len(self.indices)

  def image(self, index):
    return images.decode_rgb(
      self._read(index)[0],
      self.name(index),
      exif_transpose=self.exif_transpose,
    )

  def label(self, index):
    return self._read(index)[1]

  def name(self, index):
    number = self.indices[index]
    return f"{self.title} record {number} ({self._place(index)[0].path})"

  def _place(self, index) -> tuple[Shard, int]:
    number = self.indices[index]
    shard = int(np.searchsorted(self.starts, number, side="right")) - 1
    return self.shards[shard], int(number - self.starts[shard])

  def _read(self, index) -> tuple[bytes, int]:
    """Encoded image and label."""
    shard, position = self._place(index)
    key = (shard, position, self.keys)
    # Both are asked for one after the other: the record is read once.
    latest = getattr(_latest, "record", (None, None))
    if latest[0] != key:
      try:
        value = _image_and_label(_record(shard, position), self.keys)
      except (RuntimeError, ValueError, IndexError) as e:
        raise DamagedRecordError(
          f"{shard.path}: cannot read record {position} of this shard, "
          f"{self.title} record {self.indices[index]}: {str(e) or _ENDS}; "
          "restore or prepare that shard again"
        ) from e
      latest = _latest.record = (key, value)
    return latest[1]


_latest = threading.local()  # (place and keys, image and label)


def _record(shard, position) -> bytes:
  record = _reader(shard).read([position])[0]
  if not record:
    # What array_record returns beyond the end of a file that became shorter.
    raise ValueError(_ENDS)
  return record


def _most_open():
  """Files to keep open: leaves half of what the system allows to others."""
  allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
  return allowed // 2 if 0 < allowed < 4096 else 2048


@functools.lru_cache(maxsize=_most_open())
def _reader(shard):
  # Shared by threads. No read-ahead: the next record is anywhere.
  reader = array_record_module.ArrayRecordReader(
    str(shard.path),
    options="readahead_buffer_size:0",
    file_reader_buffer_size=1 << 15,
  )
  found = reader.num_records()
  if found != shard.records:
    if not found:
      reader.close()  # raises what made it give up
    raise ValueError(f"it holds {found} records instead of {shard.records}")
  return reader


def _image_and_label(record, keys):
  """Two features of a serialised tf.train.Example.

  https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto
  """
  try:
    example = dict(_fields(memoryview(record)))
    entries = [dict(_fields(entry)) for _, entry in _fields(example[1])]
    features = {str(entry[1], "utf-8"): entry[2] for entry in entries}
    image, label = (dict(_fields(features[key])) for key in keys)
    # A bytes list has number 1, a list of integers 3; their values have 1.
    encoded = dict(_fields(image[1]))[1]
    number = dict(_fields(label[3]))[1]
    if not isinstance(number, int):
      number = _varint(number, 0)[0]  # packed
    return bytes(encoded), number - (number >> 63 << 64)
  except (KeyError, TypeError, ValueError, IndexError) as e:
    image, label = keys
    raise ValueError(
      f"it is no tf.train.Example with {image!r} and {label!r}"
    ) from e


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
  """Number and value of each field of a protobuf message.

  https://protobuf.dev/programming-guides/encoding/
  """
  at = 0
  while at < len(message):
    tag, at = _varint(message, at)
    if tag & 7 not in (0, 2):
      raise ValueError(f"wire type {tag & 7}")
    value, at = _varint(message, at)
    if tag & 7 == 2:
      start, at = at, at + value
      value = message[start:at]
    yield tag >> 3, value
  if at > len(message):
    raise ValueError("a field ends after its message")


def _varint(message, at):
  value = 0
  for shift in range(0, 70, 7):
    byte, at = message[at], at + 1
    value |= (byte & 127) << shift
    if byte < 128:
      return value, at
  raise ValueError("a number of more than ten bytes")


@dataclasses.dataclass(frozen=True)
class _Prepared:
  """What the metadata of a prepared dataset says.

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
          key: (feature["pythonClassName"].rpartition(".")[2], feature)
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
      raise ValueError(f"{self.name} has {has}: set {field} to {_list(found)}")
    return chosen or found[0]

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
        f"{self.name} has no split {split!r}: take {_list(self.splits)}"
      )
    lengths, template = self.splits[split]
    if not sum(lengths):
      raise ValueError(
        f"split {split!r} of {self.name} is empty: its splits are "
        + _list(self.splits)
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


def _find(dataset, root) -> pathlib.Path:
  """The directory of a prepared dataset's newest, or named, version."""
  match = _NAME.fullmatch(dataset)
  if not match:
    raise ValueError(
      f"dataset {dataset!r}: give a name of TFDS such as 'cifar10', "
      "'imagenet2012:5.1.0' or 'my_set/config'"
    )
  if not root.is_dir():
    raise ValueError(
      f"no directory {root}: set data_dir to where {dataset!r} is prepared, "
      f"or prepare it there, {_command(dataset, root)}"
    )
  home = root / match["name"] / (match["config"] or "")
  versions = _versions(home.glob("*/dataset_info.json"))
  if versions and match["version"] in (None, *versions):
    return home / (match["version"] or versions[-1])
  there = [*root.glob("*/*/dataset_info.json")]
  there += root.glob("*/*/*/dataset_info.json")
  homes = sorted({path.parents[1] for path in there})
  names = {home.relative_to(root).parts[0]: None for home in homes}
  near = difflib.get_close_matches(match["name"], names, n=1)
  full = [
    f"{home.relative_to(root).as_posix()}:{version}"
    for home in homes
    for version in _versions(home.glob("*/dataset_info.json"))
    if not near or home.relative_to(root).parts[0] == near[0]
  ]
  hint = f"; there: {_list(full[:9])}" if full else ", nor is any other"
  raise ValueError(
    f"{dataset!r} is not prepared in {root}"
    + (f" (did you mean {_list(full)}?)" if near else hint)
    + f". Prepare it, {_command(dataset, root)}"
  )


def _versions(paths):
  names = [path.parent.name for path in paths]
  names = [name for name in names if _VERSION.fullmatch(name)]
  return sorted(names, key=lambda name: tuple(map(int, name.split("."))))


def _command(dataset, root):
  return (
    "after pip install tensorflow tensorflow-datasets importlib_resources: "
    'python -c "import tensorflow_datasets as tfds; '
    f"tfds.builder({dataset!r}, data_dir={str(root)!r}, "
    "file_format='array_record').download_and_prepare()\""
  )


def _read_json(path):
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as e:
    raise ValueError(
      f"cannot read {path}: {e}; restore it or prepare the dataset again"
    ) from e


def _list(names):
  return ", ".join(map(repr, names))
