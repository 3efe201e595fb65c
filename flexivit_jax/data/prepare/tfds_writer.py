"""Datasets in the layout of TensorFlow Datasets, written without TensorFlow.

TFDS reads them as well: `tfds.builder_from_directory(path).as_data_source()`.
"""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

from array_record.python import array_record_module

from flexivit_jax.data.sources.array_record import encode_example

# A shard ends before the record that would make it larger.
SHARD_BYTES = 192 * 2**20

_FEATURES = "tensorflow_datasets.core.features."


@dataclasses.dataclass(frozen=True)
class Example:
  """An image as it is stored: its file's bytes, and its path in a split."""

  split: str
  label: int
  file_name: str
  image: bytes


def write(
  directory: pathlib.Path,
  name: str,
  version: str,
  classes: Sequence[str],
  examples: Iterable[Example],
) -> None:
  """Writes shards and metadata into an empty directory.

  Equal examples in equal order give equal bytes. The metadata comes last, so
  that without it nothing is taken for a dataset.

  Raises:
    OSError: a file cannot be written; of a full disk, too.
  """
  written = {}
  with contextlib.ExitStack() as stack:
    for example in examples:
      split = written.get(example.split)
      if split is None:
        stem = directory / f"{name}-{example.split}.array_record"
        split = stack.enter_context(contextlib.closing(_Split(stem)))
        written[example.split] = split
      split.write(
        encode_example(
          {
            "image": example.image,
            "label": example.label,
            "file_name": example.file_name,
          }
        )
      )
  for split in written.values():
    split.name_shards()
  labels = "".join(f"{label}\n" for label in classes)
  (directory / "label.labels.txt").write_text(labels, encoding="utf-8")
  _write_json(directory / "features.json", _features(len(classes)))
  info = {
    "description": "Images in their own encoding, with one label each.",
    "fileFormat": "array_record",
    "name": name,
    "splits": [
      {
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "name": key,
        "numBytes": str(split.bytes),
        "shardLengths": list(map(str, split.lengths)),
      }
      for key, split in sorted(written.items())
    ],
    "version": version,
  }
  _write_json(directory / "dataset_info.json", info)


class _Split:
  """Shards of one split, filled one after the other."""

  def __init__(self, stem):
    self.lengths, self.bytes = [], 0
    self._stem, self._writer, self._room = stem, None, 0

  def write(self, record: bytes) -> None:
    if self._writer is None or len(record) > self._room:
      self.close()
      self.lengths.append(0)
      self._room = SHARD_BYTES
      path = self._path(len(self.lengths) - 1)
      with _as_os_error(path):
        # Each record for itself, as they are read. Images are compressed.
        self._writer = array_record_module.ArrayRecordWriter(
          str(path), "group_size:1,uncompressed"
        )
    with _as_os_error(self._path(len(self.lengths) - 1)):
      self._writer.write(record)
    self.lengths[-1] += 1
    self.bytes += len(record)
    self._room -= len(record)

  def close(self) -> None:
    writer, self._writer = self._writer, None
    if writer is not None and writer.is_open():
      with _as_os_error(self._path(len(self.lengths) - 1)):
        writer.close()

  def name_shards(self) -> None:
    """Gives them their names, which say how many there are."""
    count = len(self.lengths)
    for i in range(count):
      path = self._path(i)
      path.rename(path.with_name(f"{path.name}-of-{count:05}"))

  def _path(self, i):
    return self._stem.with_name(f"{self._stem.name}-{i:05}")


@contextlib.contextmanager
def _as_os_error(path) -> Iterator[None]:
  """array_record says in words what the system said by number."""
  try:
    yield
  except RuntimeError as e:
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
      if os.strerror(code) in str(e):
        raise OSError(code, os.strerror(code), str(path)) from e
    raise OSError(errno.EIO, str(e), str(path)) from e


def _features(num_classes):
  """features.json: what TFDS calls the three."""
  features = {
    "file_name": {"pythonClassName": "text_feature.Text", "text": {}},
    "image": {
      "pythonClassName": "image_feature.Image",
      "image": {
        "dtype": "uint8",
        "shape": {"dimensions": ["-1", "-1", "3"]},
      },
    },
    "label": {
      "pythonClassName": "class_label_feature.ClassLabel",
      "classLabel": {"numClasses": str(num_classes)},
    },
  }
  for feature in features.values():
    feature["pythonClassName"] = _FEATURES + feature["pythonClassName"]
  return {
    "pythonClassName": f"{_FEATURES}features_dict.FeaturesDict",
    "featuresDict": {"features": features},
  }


def _write_json(path, value):
  path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
