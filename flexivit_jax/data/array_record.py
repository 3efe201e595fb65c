"""Images with labels as records of ArrayRecord files, each a tf.train.Example.

Read without TensorFlow.
"""

import dataclasses
import functools
import pathlib
import resource
import threading
from collections.abc import Iterator

import numpy as np
from array_record.python import array_record_module

from flexivit_jax.core.faults import Fault
from flexivit_jax.data import images

_ENDS = "the file ends before it"


class DamagedRecordError(Fault):
  """A record that cannot be read; the text names its shard and its place."""


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

  def size(self, index):
    return images.size(
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
