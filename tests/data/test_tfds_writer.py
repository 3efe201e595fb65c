"""What is written is read back: by our reader, and by TFDS itself."""

import errno

import numpy as np
import pytest
import tensorflow_datasets as tfds
import zoo

from flexivit_jax.data.prepare import tfds_writer
from flexivit_jax.data.prepare.tfds_writer import Example


def examples(n=20):
  """Two splits, one after the other in turns."""
  for i in range(n):
    yield Example(
      ("train", "test")[i % 2], i % 3, f"{i}.png", zoo.encoded(zoo.pixels(i))
    )


def written(data_dir, source=None, name="mine"):
  directory = data_dir / name / "1.0.0"
  directory.mkdir(parents=True)
  tfds_writer.write(directory, name, "1.0.0", zoo.CLASSES, source or examples())
  return directory


def files(directory):
  return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_our_reader_reads_it_in_order(tmp_path):
  written(tmp_path)
  for start, split in enumerate(("train", "test")):
    source = zoo.opened(tmp_path, "mine", split)
    numbers = range(start, 20, 2)
    assert source.classes == zoo.CLASSES
    assert zoo.rows(source) == [
      (zoo.pixels(i).tobytes(), i % 3) for i in numbers
    ]
    # As they were, not encoded anew.
    encoded = [source._read(i)[0] for i in range(len(source))]
    assert encoded == [zoo.encoded(zoo.pixels(i)) for i in numbers]


def test_tfds_reads_it(tmp_path):
  builder = tfds.builder_from_directory(written(tmp_path))
  assert builder.info.full_name == "mine/1.0.0"
  assert builder.info.features["label"].names == list(zoo.CLASSES)
  assert builder.info.splits["train"].num_examples == 10
  for i, row in enumerate(builder.as_data_source("test")):
    number = 2 * i + 1
    np.testing.assert_array_equal(row["image"], zoo.pixels(number))
    assert row["label"] == number % 3
    assert row["file_name"] == f"{number}.png".encode()


def test_equal_examples_give_equal_bytes(tmp_path):
  first, second = (written(tmp_path / x) for x in "ab")
  assert files(first) == files(second)


def test_shards_end_before_they_are_too_large(tmp_path, monkeypatch):
  monkeypatch.setattr(tfds_writer, "SHARD_BYTES", 1200)
  directory = written(tmp_path)
  source = zoo.opened(tmp_path, "mine")
  lengths = [shard.records for shard in source.shards]
  # A record holds an image of 270 to 330 bytes, and 70 more.
  assert lengths == [3, 3, 3, 1]
  assert sorted(p.name for p in directory.glob("mine-train.*")) == [
    f"mine-train.array_record-{i:05}-of-00004" for i in range(4)
  ]
  assert zoo.rows(source) == [
    (zoo.pixels(i).tobytes(), i % 3) for i in range(0, 20, 2)
  ]
  # One that is larger than a shard has a shard of its own.
  monkeypatch.setattr(tfds_writer, "SHARD_BYTES", 10)
  written(tmp_path, name="small")
  assert [s.records for s in zoo.opened(tmp_path, "small").shards] == [1] * 10


def test_there_is_no_metadata_before_the_end(tmp_path):
  def interrupted():
    yield from examples()
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    written(tmp_path, interrupted())
  names = {p.name for p in (tmp_path / "mine" / "1.0.0").iterdir()}
  assert names == {
    "mine-test.array_record-00000",
    "mine-train.array_record-00000",
  }


def test_a_full_disk(small_disk):
  disk = small_disk(200)
  with pytest.raises(OSError, match="No space left on device") as caught:
    written(disk, examples(2000))
  assert caught.value.errno == errno.ENOSPC
  assert caught.value.filename.startswith(f"{disk}/mine/1.0.0/mine-t")
  assert not (disk / "mine" / "1.0.0" / "dataset_info.json").exists()
