"""Records of files: the images that were written, threads, damage."""

import concurrent.futures
import os
import pathlib
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
import zoo
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2
from zoo import TEST, TRAIN, opened, pixels, rows

from flexivit_jax.data.pixels.decode import BadImageError
from flexivit_jax.data.sources import array_record
from flexivit_jax.data.sources.array_record import DamagedRecordError

ROOT = pathlib.Path(__file__).parents[2]


class Odd(zoo.SmallDataset):
  """An image turned by EXIF, and one that is none."""

  def _generate_examples(self):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    jpeg = zoo.encoded(np.zeros((8, 16, 3), np.uint8), "JPEG", exif=exif)
    yield "turned", zoo.example(0) | {"image": jpeg}
    yield "torn", zoo.example(1) | {"image": zoo.encoded(pixels(1))[:-30]}


class Many(zoo.SmallDataset):
  """Sixty images, for as many shards."""

  def _generate_examples(self):
    yield from ((i, zoo.example(i)) for i in range(60))


def test_the_images_that_were_written(prepared):
  written = [(pixels(i).tobytes(), i % 3) for i in range(TRAIN + TEST)]
  train, test = (opened(prepared, split=s) for s in ("train", "test"))
  assert (len(train), len(test)) == (TRAIN, TEST)
  assert train.classes == test.classes == zoo.CLASSES
  assert sorted(rows(train)) == sorted(written[:TRAIN])
  assert sorted(rows(test)) == sorted(written[TRAIN:])
  image = train.image(0)
  assert (image.dtype, image.shape[0], image.shape[2]) == (np.uint8, 8, 3)


def test_tfds_reads_the_same_in_the_same_order(prepared):
  builder = tfds.builder_from_directory(prepared / "zoo" / "1.2.0")
  oracle = builder.as_data_source("train")
  source = opened(prepared)
  assert len({shard.path for shard in source.shards}) == zoo.SHARDS
  assert rows(source) == [(x["image"].tobytes(), x["label"]) for x in oracle]


def test_a_copy_for_another_process(prepared):
  source = opened(prepared, split="train[:90%]")
  rows(source)  # files are open
  copy = pickle.loads(pickle.dumps(source))  # noqa: S301
  assert rows(copy) == rows(source)
  assert copy.fingerprint == source.fingerprint


def test_threads_read_what_one_thread_reads(prepared):
  expected = rows(opened(prepared))
  source = opened(prepared)

  def read(seed):
    order = np.random.default_rng(seed).integers(0, TRAIN, 5 * TRAIN)
    return all(got == expected[i] for got, i in zip(rows(source, order), order))

  with concurrent.futures.ThreadPoolExecutor(4) as threads:
    assert list(threads.map(read, range(4))) == [True] * 4


@pytest.mark.parametrize("label", [0, 2**63 - 1, -1])
def test_a_tf_train_example(label):
  message = tf_example_pb2.Example()
  features = message.features.feature
  features["floats"].float_list.value.extend([1.5, -2.5])
  features["none"].SetInParent()
  features["label"].int64_list.value.append(label)
  features["image"].bytes_list.value.append(bytes(range(256)) * 300)
  record = message.SerializeToString()
  parse = array_record._image_and_labels
  expected = bytes(range(256)) * 300, (label,)
  assert parse(record, ("image", "label")) == expected
  endless = b"\x0a" + b"\xff" * 20
  for wrong in (record[:-1], record + b"\x0a", endless, b"\x0b", b"text"):
    with pytest.raises(ValueError, match=r"no tf\.train\.Example with 'image'"):
      parse(wrong, ("image", "label"))
  for keys in (("image", "floats"), ("label", "label"), ("image", "none")):
    with pytest.raises(ValueError, match=r"no tf\.train\.Example"):
      parse(record, keys)


@pytest.mark.parametrize("label", [0, 128, -1])
def test_an_encoded_example_is_that_of_tensorflow(label):
  features = {"label": label, "image": bytes(range(256)) * 300, "f": "é.jpg"}
  record = array_record.encode_example(features)
  message = tf_example_pb2.Example.FromString(record).features.feature
  assert message["label"].int64_list.value == [label]
  assert message["image"].bytes_list.value == [features["image"]]
  assert message["f"].bytes_list.value == ["é.jpg".encode()]
  assert len(message) == 3
  again = dict(reversed(features.items()))
  assert array_record.encode_example(again) == record


@pytest.mark.parametrize("labels", [[], [0, 2]])
def test_one_label_is_one(prepared, monkeypatch, labels):
  message = tf_example_pb2.Example()
  features = message.features.feature
  features["label"].int64_list.value.extend(labels)
  features["label"].int64_list.SetInParent()
  features["image"].bytes_list.value.append(b"x")
  record, source = message.SerializeToString(), opened(prepared)
  monkeypatch.setattr(array_record, "_record", lambda shard, position: record)
  with pytest.raises(DamagedRecordError) as caught:
    source.label(7)
  expected = f": it has {len(labels)} labels instead of one; restore or prepare"
  assert expected in str(caught.value)


def test_integers_that_are_not_packed():
  # label { int64_list { value: 300 } }, image { bytes_list { value: "x" } }
  label = b"\x0a\x05label\x12\x05\x1a\x03\x08\xac\x02"
  image = b"\x0a\x05image\x12\x05\x0a\x03\x0a\x01x"
  entries = b"".join(b"\x0a" + bytes([len(e)]) + e for e in (label, image))
  record = b"\x0a" + bytes([len(entries)]) + entries
  parse = array_record._image_and_labels
  assert parse(record, ("image", "label")) == (b"x", (300,))


def test_sizes_without_decoding(prepared, tmp_path):
  source = opened(prepared)
  sizes = [source.size(i) for i in range(TRAIN)]
  assert sizes == [source.image(i).shape[:2] for i in range(TRAIN)]
  assert len(set(sizes)) == 3
  zoo.prepare(Odd, tmp_path)
  source = opened(tmp_path, "odd")
  # The torn one has a header.
  assert sorted(map(source.size, range(2))) == [(8, 9), (8, 16)]
  turned = [source.label(i) for i in range(2)].index(0)
  torn = re.escape(source.name(1 - turned))
  with pytest.raises(BadImageError, match=f"^{torn}: cannot decode"):
    source.image(1 - turned)
  source = opened(tmp_path, "odd", exif_transpose=True)
  assert source.size(turned) == source.image(turned).shape[:2] == (16, 8)
  # Its orientation may come after the pixels.
  with pytest.raises(BadImageError, match=r"^odd/1\.2\.0 train record "):
    source.size(1 - turned)


def test_the_name_of_a_record(prepared):
  source = opened(prepared, split="test")
  shard = prepared / "zoo/1.2.0/zoo-test.array_record-00001-of-00003"
  assert source.name(7) == f"zoo/1.2.0 test record 7 ({shard})"
  part = opened(prepared, split="test[:5]")
  names = [part.name(i) for i in range(5)]
  assert set(names) < {source.name(i) for i in range(TEST)}


def test_neither_tensorflow_nor_tfds_is_imported(prepared):
  code = (
    "import sys; from flexivit_jax.data.sources.tfds import Tfds; "
    f"Tfds('zoo', 'train', {str(prepared)!r}).open().image(0); "
    "assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)  # noqa: S603


def test_more_shards_than_files_may_be_open(tmp_path):
  zoo.prepare(Many, tmp_path, shards=60)
  code = (
    "import resource; "
    "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; "
    "resource.setrlimit(resource.RLIMIT_NOFILE, (50, hard)); "
    "from flexivit_jax.data.sources.tfds import Tfds; "
    f"opened = Tfds('many', data_dir={str(tmp_path)!r}).open(); "
    "assert [opened.image(i).shape[0] for i in range(60)] == [8] * 60"
  )
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)  # noqa: S603


@pytest.fixture
def shard(data_dir):
  """The file with the records 0 to 12 of train."""
  return data_dir / "zoo/1.2.0/zoo-train.array_record-00000-of-00003"


def damaged(source, expected):
  """Text of the error of each record; None: it is the one written."""
  texts = []
  for i, row in enumerate(expected):
    try:
      assert rows(source, [i]) == [row]
      texts.append(None)
    except DamagedRecordError as e:
      texts.append(str(e))
  return texts


def test_a_damaged_record_is_named(data_dir, shard):
  source = opened(data_dir)
  expected = rows(source)
  data = bytearray(shard.read_bytes())
  data[data.index(source._read(4)[0]) + 50] ^= 1
  shard.write_bytes(data)
  texts = damaged(opened(data_dir), expected)
  assert [i for i, text in enumerate(texts) if text] == [4]
  assert re.fullmatch(
    rf"{re.escape(str(shard))}: cannot read record 4 of this shard, zoo/1.2.0 "
    r"train record 4: Corrupted Riegeli/records file: chunk data hash mismatch "
    r".*at byte \d+.*; restore or prepare that shard again",
    texts[4],
  )


def read_or_refused(data_dir, expected):
  """Whether damage is noticed: at the first record, or at any."""
  try:
    return any(damaged(opened(data_dir), expected))
  except DamagedRecordError:
    return True


@pytest.mark.parametrize("seed", range(12))
def test_a_flipped_bit_is_noticed(data_dir, shard, seed):
  expected = rows(opened(data_dir))
  data = bytearray(shard.read_bytes())
  written = np.flatnonzero(np.frombuffer(data, np.uint8))
  generator = np.random.default_rng(seed)
  at = generator.choice(written)
  data[at] ^= 1 << generator.integers(8)
  shard.write_bytes(data)
  # What holds no record, such as the file's signature, may go unnoticed:
  # `damaged` has compared all pixels.
  noticed = read_or_refused(data_dir, expected)
  assert noticed or not 100 < at < 1 << 16


@pytest.mark.parametrize("size", [1, 100, 3000, 1 << 16, (1 << 16) + 50, -1])
def test_a_cut_off_shard_is_noticed(data_dir, shard, size):
  expected = rows(opened(data_dir))
  whole = shard.stat().st_size
  os.truncate(shard, size % whole)
  with pytest.raises(
    DamagedRecordError, match=r"cannot read record 0 of this .*: \w.*; restore"
  ):
    opened(data_dir)
  os.truncate(shard, whole)  # with zeros
  assert read_or_refused(data_dir, expected) or size == -1


@pytest.mark.parametrize("size", [0, 3000])
def test_a_shard_that_is_cut_off_while_it_is_read(data_dir, shard, size):
  source = opened(data_dir)
  expected = rows(source)
  os.truncate(shard, size)
  texts = damaged(source, expected)
  # array_record itself returns empty records, without an error.
  lost = [i for i, text in enumerate(texts) if text]
  assert lost == list(range(lost[0], 13))
  assert (lost[0] == 0) == (size == 0)
  assert "the file ends before it; restore" in texts[12]


def test_a_shard_that_is_deleted(data_dir, shard):
  source = opened(data_dir, split="test")
  other = data_dir / "zoo/1.2.0/zoo-test.array_record-00002-of-00003"
  other.unlink()
  assert len(rows(source, range(10))) == 10
  with pytest.raises(
    DamagedRecordError, match=r"record 0 of this shard.*No such file"
  ):
    source.image(10)
