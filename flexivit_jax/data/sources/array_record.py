"""Images with labels as records of ArrayRecord files, each a tf.train.Example.

Read, and encoded, without TensorFlow.
"""

import dataclasses
import functools
import io
import pathlib
import resource
import threading
from collections.abc import Iterator, Mapping

import numpy as np
from array_record.python import array_record_module

from flexivit_jax.core.errors import Fault
from flexivit_jax.data.pixels import decode
from flexivit_jax.data.pixels.preprocessing import ANTIALIAS, Mode
from flexivit_jax.data.sources.source import padded_labels

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

  Its `image`, `size` and `label` raise DamagedRecordError, and the first two
  BadImageError.

  Attributes:
    title: dataset, version and split, for messages.
    shards: of the split.
    starts: i64 `[shards + 1]`, the number of each one's first record.
    indices: i64 `[n]`, record numbers in the split.
    keys: of the image's and the label's feature.
    max_labels: most labels of an image; None: each has one.
  """

  title: str
  shards: tuple[Shard, ...]
  starts: np.ndarray
  indices: np.ndarray
  classes: tuple[str, ...]
  fingerprint: str
  keys: tuple[str, str]
  exif_transpose: bool
  max_labels: int | None = None
  mode: Mode = ANTIALIAS

  def __len__(self):
    return len(self.indices)

  def image(self, index):
    return self.mode.decode(
      self._read(index)[0],
      self.name(index),
      exif_transpose=self.exif_transpose,
    )

  def label(self, index):
    labels = self._read(index)[1]
    if self.max_labels is None:
      return labels[0]
    return padded_labels(labels, self.max_labels, self.name(index))

  def size(self, index):
    return decode.read_hw(
      io.BytesIO(self._read(index)[0]),
      self.name(index),
      exif_transpose=self.exif_transpose,
    )

  def name(self, index):
    number = self.indices[index]
    return f"{self.title} record {number} ({self._place(index)[0].path})"

  def stored_order(self):
    return self._stored_order

  @functools.cached_property
  def _stored_order(self):
    # Of a slice too, whose records are in no order.
    return np.argsort(self.indices).astype(np.int32)

  def _place(self, index) -> tuple[Shard, int]:
    number = self.indices[index]
    shard = int(np.searchsorted(self.starts, number, side="right")) - 1
    return self.shards[shard], int(number - self.starts[shard])

  def _read(self, index) -> tuple[bytes, tuple[int, ...]]:
    """Encoded image and labels."""
    shard, position = self._place(index)
    key = (shard, position, self.keys)
    # Both are asked for one after the other: the record is read once.
    latest = getattr(_latest, "record", (None, None))
    if latest[0] != key:
      try:
        value = _image_and_labels(_record(shard, position), self.keys)
        if self.max_labels is None and len(value[1]) != 1:
          raise ValueError(f"it has {len(value[1])} labels instead of one")
      except (RuntimeError, ValueError, IndexError) as e:
        raise DamagedRecordError(
          f"{shard.path}: cannot read record {position} of this shard, "
          f"{self.title} record {self.indices[index]}: {str(e) or _ENDS}; "
          "restore or prepare that shard again"
        ) from e
      latest = _latest.record = (key, value)
    return latest[1]


_latest = threading.local()  # (place and keys, image and labels)


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


def _image_and_labels(record, keys):
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
    return bytes(encoded), tuple(_integers(label[3]))
  except (KeyError, TypeError, ValueError, IndexError) as e:
    image, label = keys
    raise ValueError(
      f"it is no tf.train.Example with {image!r} and {label!r}"
    ) from e


def _integers(values: memoryview) -> Iterator[int]:
  """Integers of a list, packed or one by one."""
  for _, value in _fields(values):
    at, numbers = 0, [value] if isinstance(value, int) else []
    while not isinstance(value, int) and at < len(value):
      number, at = _varint(value, at)
      numbers.append(number)
    # 64 bits, a negative one as its two's complement.
    yield from (number - (number >> 63 << 64) for number in numbers)


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


def encode_example(features: Mapping[str, bytes | str | int]) -> bytes:
  """A serialised tf.train.Example of one value per feature.

  Equal features give equal bytes, whatever their order.
  """
  entries = []
  for name, value in sorted(features.items()):
    if isinstance(value, int):
      # 64 bits, a negative one as its two's complement.
      kind, value = 3, _to_varint(value % 2**64)
    else:
      kind, value = 1, value.encode() if isinstance(value, str) else value
    feature = _field(kind, _field(1, value))
    entries.append(_field(1, _field(1, name.encode()) + _field(2, feature)))
  return _field(1, b"".join(entries))


def _field(number, value: bytes):
  return _to_varint(number << 3 | 2) + _to_varint(len(value)) + value


def _to_varint(value):
  encoded = bytearray()
  while value > 127:
    encoded.append(value & 127 | 128)
    value >>= 7
  return bytes(encoded) + bytes([value])
