"""Datasets that TFDS prepared: the images written, refusals, damaged files."""

import concurrent.futures
import io
import os
import pathlib
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from flexivit_jax.core.faults import Fault
from flexivit_jax.data import tfds as source_module
from flexivit_jax.data.images import BadImageError
from flexivit_jax.data.tfds import DamagedRecordError, Tfds

ROOT = pathlib.Path(__file__).parents[2]
CLASSES = ("cat", "dog", "eel")
TRAIN, TEST, SHARDS = 40, 15, 3


def pixels(i):
  """The i-th image: noise, and 8 x 8 to 8 x 10 pixels."""
  generator = np.random.default_rng(i)
  return generator.integers(0, 256, (8, 8 + i % 3, 3), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, kind, **options)
  return buffer.getvalue()


def example(i):
  return {"image": encoded(pixels(i)), "label": i % 3, "file": f"{i}.png"}


class _Builder(tfds.core.GeneratorBasedBuilder):
  """What is the same for all the datasets below."""

  VERSION = tfds.core.Version("1.2.0")

  def _info(self):
    features = tfds.features.FeaturesDict(self._features())
    return tfds.core.DatasetInfo(builder=self, features=features)

  def _features(self):
    return {
      "image": tfds.features.Image(),
      "label": tfds.features.ClassLabel(names=CLASSES),
      "file": tfds.features.Text(),
    }

  def _split_generators(self, _):
    return {"train": self._generate_examples()}


class Zoo(_Builder):
  """Two splits of PNG images."""

  def _split_generators(self, _):
    every = range(TRAIN + TEST)
    return {
      "train": self._generate_examples(every[:TRAIN]),
      "test": self._generate_examples(every[TRAIN:]),
    }

  def _generate_examples(self, numbers):
    yield from ((i, example(i)) for i in numbers)


class Pairs(_Builder):
  """Two images, two labels of many classes, and a grey image."""

  def _features(self):
    return {
      "left": tfds.features.Image(),
      "right": tfds.features.Image(shape=(None, None, 1)),
      "coarse": tfds.features.ClassLabel(num_classes=20),
      "fine": tfds.features.ClassLabel(num_classes=30_000),
    }

  def _generate_examples(self):
    for i in range(9):
      grey = encoded(pixels(i)[..., 0])
      # Labels of one, two and three bytes.
      fine = (i, 100 * i, 3_000 * i)[i % 3]
      yield i, dict(left=encoded(pixels(i)), right=grey, coarse=i, fine=fine)


class Odd(_Builder):
  """A test split without labels; images turned by EXIF, or none."""

  def _split_generators(self, _):
    return {
      "train": self._generate_examples(),
      "test": [(i, example(i) | {"label": -1}) for i in range(3)],
    }

  def _generate_examples(self):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    jpeg = encoded(np.zeros((8, 16, 3), np.uint8), "JPEG", exif=exif)
    yield "turned", example(0) | {"image": jpeg}
    yield "torn", example(1) | {"image": encoded(pixels(1))[:-30]}


class Many(_Builder):
  """Sixty images, for as many shards."""

  def _generate_examples(self):
    yield from ((i, example(i)) for i in range(60))


class Words(_Builder):
  """No images."""

  def _features(self):
    return {"label": tfds.features.ClassLabel(names=CLASSES)}

  def _generate_examples(self):
    yield 0, {"label": 0}


def prepare(builder, data_dir, shards=1):
  tfds.disable_progress_bar()
  builder(data_dir=data_dir, file_format="array_record").download_and_prepare(
    download_config=tfds.download.DownloadConfig(num_shards=shards)
  )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """A data_dir with Zoo."""
  data_dir = tmp_path_factory.mktemp("tfds")
  prepare(Zoo, data_dir, SHARDS)
  return data_dir


@pytest.fixture
def data_dir(prepared, tmp_path):
  """The same, to be changed."""
  return shutil.copytree(prepared, tmp_path / "data")


def rows(source, order=None):
  """Each example as (pixels, label)."""
  order = range(len(source)) if order is None else order
  return [(source.image(i).tobytes(), source.label(i)) for i in order]


def opened(data_dir, dataset="zoo", split="train", **options):
  return Tfds(dataset, split, str(data_dir), **options).open()


# What is read.


def test_the_images_that_were_written(prepared):
  written = [(pixels(i).tobytes(), i % 3) for i in range(TRAIN + TEST)]
  train, test = (opened(prepared, split=s) for s in ("train", "test"))
  assert (len(train), len(test)) == (TRAIN, TEST)
  assert train.classes == test.classes == CLASSES
  assert sorted(rows(train)) == sorted(written[:TRAIN])
  assert sorted(rows(test)) == sorted(written[TRAIN:])
  image = train.image(0)
  assert (image.dtype, image.shape[0], image.shape[2]) == (np.uint8, 8, 3)


def test_tfds_reads_the_same_in_the_same_order(prepared):
  builder = tfds.builder_from_directory(prepared / "zoo" / "1.2.0")
  oracle = builder.as_data_source("train")
  source = opened(prepared)
  assert len({shard.path for shard in source.shards}) == SHARDS
  assert rows(source) == [(x["image"].tobytes(), x["label"]) for x in oracle]


def test_complementary_slices(prepared):
  whole = opened(prepared)
  for at in ("1", "25%", "90%"):
    first, rest = (
      opened(prepared, split=s) for s in (f"train[:{at}]", f"train[{at}:]")
    )
    # Disjoint and complete: all 40 images are different.
    assert sorted(rows(first) + rows(rest)) == sorted(rows(whole))
    assert first.classes == rest.classes == whole.classes


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
    order = np.random.default_rng(seed).integers(0, TRAIN, 20 * TRAIN)
    return all(got == expected[i] for got, i in zip(rows(source, order), order))

  with concurrent.futures.ThreadPoolExecutor(4) as threads:
    assert list(threads.map(read, range(4))) == [True] * 4


def test_a_record_is_read_once_for_image_and_label(prepared, monkeypatch):
  source, places = opened(prepared), []
  record = source_module._record

  def counted(*place):
    places.append(place)
    return record(*place)

  monkeypatch.setattr(source_module, "_record", counted)
  rows(source, range(1, TRAIN))
  assert len(places) == len(set(places)) == TRAIN - 1


def test_several_images_and_labels(tmp_path):
  prepare(Pairs, tmp_path)
  right = opened(tmp_path, "pairs", image_key="right", label_key="fine")
  left = opened(tmp_path, "pairs", image_key="left", label_key="coarse")
  # A label without names has its number as name.
  assert left.classes == tuple(map(str, range(20)))
  assert len(right.classes) == 30_000
  for i in range(9):
    number = left.label(i)
    np.testing.assert_array_equal(left.image(i), pixels(number))
    grey = pixels(number)[..., :1].repeat(3, axis=-1)
    np.testing.assert_array_equal(right.image(i), grey)
    fine = (number, 100 * number, 3_000 * number)[number % 3]
    assert right.label(i) == fine
  assert left.fingerprint != right.fingerprint


@pytest.mark.parametrize("label", [0, 1, 127, 128, 2**31, 2**63 - 1, -1])
def test_a_tf_train_example(label):
  message = tf_example_pb2.Example()
  features = message.features.feature
  features["floats"].float_list.value.extend([1.5, -2.5])
  features["none"].SetInParent()
  features["label"].int64_list.value.append(label)
  features["image"].bytes_list.value.append(bytes(range(256)) * 300)
  record = message.SerializeToString()
  parse = source_module._image_and_label
  assert parse(record, ("image", "label")) == (bytes(range(256)) * 300, label)
  endless = b"\x0a" + b"\xff" * 20
  for wrong in (record[:-1], record + b"\x0a", endless, b"\x0b", b"text"):
    with pytest.raises(ValueError, match=r"no tf\.train\.Example with 'image'"):
      parse(wrong, ("image", "label"))
  for keys in (("image", "floats"), ("label", "label"), ("image", "none")):
    with pytest.raises(ValueError, match=r"no tf\.train\.Example"):
      parse(record, keys)


def test_integers_that_are_not_packed():
  # label { int64_list { value: 300 } }, image { bytes_list { value: "x" } }
  label = b"\x0a\x05label\x12\x05\x1a\x03\x08\xac\x02"
  image = b"\x0a\x05image\x12\x05\x0a\x03\x0a\x01x"
  entries = b"".join(b"\x0a" + bytes([len(e)]) + e for e in (label, image))
  record = b"\x0a" + bytes([len(entries)]) + entries
  parse = source_module._image_and_label
  assert parse(record, ("image", "label")) == (b"x", 300)
  assert tf_example_pb2.Example.FromString(record).features.feature[
    "label"
  ].int64_list.value == [300]


def test_the_name_of_a_record(prepared):
  source = opened(prepared, split="test")
  shard = prepared / "zoo/1.2.0/zoo-test.array_record-00001-of-00003"
  assert source.name(7) == f"zoo/1.2.0 test record 7 ({shard})"
  part = opened(prepared, split="test[:5]")
  names = [part.name(i) for i in range(5)]
  assert set(names) < {source.name(i) for i in range(TEST)}


def test_an_image_that_is_none_is_named(tmp_path):
  prepare(Odd, tmp_path)
  source = opened(tmp_path, "odd")
  torn = [source.label(i) for i in range(2)].index(1)
  assert source.image(1 - torn).shape == (8, 16, 3)
  with pytest.raises(BadImageError) as caught:
    source.image(torn)
  assert str(caught.value).startswith(
    f"{source.name(torn)}: cannot decode this image: "
  )
  turned = opened(tmp_path, "odd", exif_transpose=True)
  assert turned.image(1 - torn).shape == (16, 8, 3)
  with pytest.raises(ValueError) as caught:
    opened(tmp_path, "odd", "test")
  assert str(caught.value) == (
    "split 'test' of odd/1.2.0 has no labels: its splits are 'train', 'test'"
  )


@pytest.mark.parametrize("use", ["opened.image(0)", "opened.label(3)"])
def test_neither_tensorflow_nor_tfds_is_imported(prepared, use):
  code = (
    "import sys; from flexivit_jax.data.tfds import Tfds; "
    f"opened = Tfds('zoo', 'train', {str(prepared)!r}).open(); {use}; "
    "assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)  # noqa: S603


def test_modules_that_the_data_names_are_not_imported(data_dir, monkeypatch):
  (data_dir / "evil.py").write_text("raise SystemExit('imported')")
  monkeypatch.syspath_prepend(data_dir)
  edit(data_dir, "features.json", r"tensorflow_[\w.]+\.Text", "evil.Text")
  assert len(opened(data_dir)) == TRAIN
  with pytest.raises(SystemExit, match="imported"):
    tfds.builder_from_directory(data_dir / "zoo" / "1.2.0")


def test_more_shards_than_files_may_be_open(tmp_path):
  prepare(Many, tmp_path, shards=60)
  code = (
    "import resource; "
    "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; "
    "resource.setrlimit(resource.RLIMIT_NOFILE, (50, hard)); "
    "from flexivit_jax.data.tfds import Tfds; "
    f"opened = Tfds('many', data_dir={str(tmp_path)!r}).open(); "
    "assert [opened.image(i).shape[0] for i in range(60)] == [8] * 60"
  )
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)  # noqa: S603


# Where it is looked for.


def test_the_newest_version_is_taken(data_dir):
  for version in ("1.9.0", "1.10.0", "incomplete.1.11.0"):
    shutil.copytree(data_dir / "zoo/1.2.0", data_dir / "zoo" / version)
  assert opened(data_dir).name(0).startswith("zoo/1.10.0 train record 0 ")
  assert opened(data_dir, "zoo:1.9.0").name(0).startswith("zoo/1.9.0 ")


def test_a_dataset_with_configs(data_dir):
  home = data_dir / "zoo"
  shutil.copytree(home / "1.2.0", home / "v1.0-x+y" / "1.2.0")
  shutil.rmtree(home / "1.2.0")
  for name in ("zoo/v1.0-x+y", "zoo/v1.0-x+y:1.2.0"):
    source = opened(data_dir, name)
    assert source.name(0).startswith("zoo/v1.0-x+y/1.2.0 train record 0 ")
  with pytest.raises(ValueError, match=r"mean 'zoo/v1\.0-x\+y:1\.2\.0'\?"):
    opened(data_dir)


def test_the_data_dir_of_tfds_is_the_default(prepared, tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
  assert len(Tfds("zoo").open()) == TRAIN
  monkeypatch.delenv("TFDS_DATA_DIR")
  monkeypatch.setenv("HOME", str(tmp_path))
  shutil.copytree(prepared, tmp_path / "tensorflow_datasets")
  assert len(Tfds("zoo").open()) == TRAIN


def test_a_data_dir_becomes_absolute(prepared, monkeypatch):
  monkeypatch.chdir(prepared.parent)
  spec = Tfds("zoo", data_dir=f"../{prepared.parent.name}/{prepared.name}")
  monkeypatch.chdir("/")
  assert len(spec.open()) == TRAIN


def test_what_was_converted_to_array_record(data_dir):
  edit(
    data_dir,
    "dataset_info.json",
    '"array_record"',
    '"tfrecord", "alternativeFileFormats": ["array_record"]',
  )
  assert len(opened(data_dir)) == TRAIN


# Fingerprints.


def relabel(folder):
  (folder / "label.labels.txt").write_text("cat\ndog\nape\n")


def grow(folder):
  shard = folder / "zoo-train.array_record-00001-of-00003"
  shard.write_bytes(shard.read_bytes() + bytes(1 << 16))


def fewer(folder):
  path = folder / "dataset_info.json"
  path.write_text(path.read_text().replace('"13"', '"12"', 1))


def newer(folder):
  folder.rename(folder.with_name("1.2.1"))


@pytest.mark.parametrize("change", [relabel, grow, fewer, newer])
def test_the_fingerprint_sees(data_dir, change):
  before = opened(data_dir, split="train[:10]").fingerprint
  assert opened(data_dir, split="train[:10]").fingerprint == before
  fewer_records = change is fewer
  change(data_dir / "zoo" / "1.2.0")
  if fewer_records:  # the first shard holds one more
    with pytest.raises(DamagedRecordError, match="holds 13 records instead"):
      rows(opened(data_dir))
  else:
    assert opened(data_dir, split="train[:10]").fingerprint != before


def test_splits_and_slices_have_fingerprints_of_their_own(prepared, tmp_path):
  names = ("train", "test", "train[:20]", "train[20:]", "train[:21]")
  found = [opened(prepared, split=s).fingerprint for s in names]
  assert len(set(found)) == len(names)
  moved = shutil.copytree(prepared, tmp_path / "elsewhere")
  assert opened(moved).fingerprint == found[0]
  # The same examples, said in another way.
  assert opened(moved, split="train[:50%]").fingerprint == found[2]


# Refusals.


def edit(data_dir, name, pattern, new, version="1.2.0"):
  path = data_dir / "zoo" / version / name
  text, count = re.subn(pattern, new, path.read_text())
  assert count
  path.write_text(text)


def refusal(*arguments, **options):
  with pytest.raises(ValueError) as caught:
    opened(*arguments, **options)
  return str(caught.value)


def command(dataset, data_dir):
  return (
    "after pip install tensorflow tensorflow-datasets importlib_resources: "
    'python -c "import tensorflow_datasets as tfds; '
    f"tfds.builder('{dataset}', data_dir='{data_dir}', "
    "file_format='array_record').download_and_prepare()\""
  )


@pytest.mark.parametrize(
  "name",
  ["../zoo", "/zoo", "zoo/..", "zoo/.", "zoo\\x", "zoo/../../x", "zoo:1.2",
   "zoo:1.*.*", "zoo/a/b", "", "zoo\n", "zoo:1.2.0/..", "~", "zoo/x=1"],
)  # fmt: skip
def test_a_name_is_no_path(prepared, name):
  assert refusal(prepared, name) == (
    f"dataset {name!r}: give a name of TFDS such as 'cifar10', "
    "'imagenet2012:5.1.0' or 'my_set/config'"
  )


def test_no_data_dir(tmp_path):
  missing = tmp_path / "none"
  assert refusal(missing, "cifar10") == (
    f"no directory {missing}: set data_dir to where 'cifar10' is prepared, or "
    f"prepare it there, {command('cifar10', missing)}"
  )


def test_a_dataset_that_is_not_prepared(prepared, tmp_path):
  assert refusal(prepared, "zoos") == (
    f"'zoos' is not prepared in {prepared} (did you mean 'zoo:1.2.0'?). "
    f"Prepare it, {command('zoos', prepared)}"
  )
  assert f"{prepared}; there: 'zoo:1.2.0'. " in refusal(prepared, "cifar10")
  assert "(did you mean 'zoo:1.2.0'?). " in refusal(prepared, "zoo:1.3.0")
  assert "(did you mean 'zoo:1.2.0'?). " in refusal(prepared, "zoo/large")
  assert refusal(tmp_path, "zoo") == (
    f"'zoo' is not prepared in {tmp_path}, nor is any other. "
    f"Prepare it, {command('zoo', tmp_path)}"
  )


@pytest.mark.parametrize("new", ['"tfrecord"', None])
def test_another_format(data_dir, new):
  pattern = '"fileFormat": "array_record",'
  new = f'"fileFormat": {new},' if new else ""
  edit(data_dir, "dataset_info.json", pattern, new)
  assert refusal(data_dir) == (
    f"{data_dir}/zoo/1.2.0 holds tfrecord files, which only TensorFlow reads. "
    "Prepare them as array_record in another data_dir, "
    + command("zoo", f"{data_dir}-array_record")
  )


def test_no_such_split(data_dir):
  assert refusal(data_dir, split="val[:5]") == (
    "zoo/1.2.0 has no split 'val': take 'train', 'test'"
  )
  assert "give a name such as 'train'" in refusal(data_dir, split="train[::2]")
  assert "takes none of 40" in refusal(data_dir, split="train[40:]")
  edit(data_dir, "dataset_info.json", r'"1\d"', '"0"')
  assert refusal(data_dir) == (
    "split 'train' of zoo/1.2.0 is empty: its splits are 'train', 'test'"
  )


@pytest.mark.parametrize("how", ["missing", "empty"])
def test_a_missing_shard(data_dir, how):
  shard = data_dir / "zoo/1.2.0/zoo-train.array_record-00002-of-00003"
  shard.unlink()
  reason = "No such file or directory"
  if how == "empty":
    shard.touch()
    reason = "it is empty"
  assert refusal(data_dir) == (
    f"shard {shard}: {reason}; restore it or prepare zoo/1.2.0 again"
  )
  assert len(opened(data_dir, split="test")) == TEST


@pytest.mark.parametrize("template", ["../{SPLIT}", "/etc/{SPLIT}"])
def test_a_shard_elsewhere(data_dir, template):
  edit(data_dir, "dataset_info.json", r"\{DATASET\}.*\}", template)
  file = template.replace("{SPLIT}", "train")
  assert refusal(data_dir) == (
    f"{data_dir}/zoo/1.2.0: dataset_info.json names a shard elsewhere, {file!r}"
  )


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_damaged_metadata(data_dir, name):
  path = data_dir / "zoo" / "1.2.0" / name
  path.write_text(path.read_text()[:-9])
  assert re.fullmatch(
    rf"cannot read {re.escape(str(path))}: \w+ .*; restore it or prepare "
    "the dataset again",
    refusal(data_dir),
  )
  for wrong in ("[]", '{"splits": 3}', '{"featuresDict": []}'):
    path.write_text(wrong)
    assert refusal(data_dir).startswith(
      f"{path.parent}: its dataset_info.json or features.json is not what TFDS "
      "writes ("
    )
  path.unlink()
  if name == "features.json":
    assert f"cannot read {path}: " in refusal(data_dir)
  else:
    assert "'zoo' is not prepared" in refusal(data_dir)


def test_features_that_are_no_images_with_labels(tmp_path):
  for builder in (Pairs, Words):
    prepare(builder, tmp_path)
  assert refusal(tmp_path, "pairs") == (
    "pairs/1.2.0 has several Images: set image_key to 'left', 'right'"
  )
  assert refusal(tmp_path, "pairs", image_key="left") == (
    "pairs/1.2.0 has several ClassLabels: set label_key to 'coarse', 'fine'"
  )
  assert refusal(tmp_path, "pairs", image_key="fine") == (
    "pairs/1.2.0 has no Image feature 'fine': set image_key to 'left', 'right'"
  )
  assert refusal(tmp_path, "words") == (
    "words/1.2.0 has no Image feature, but label (ClassLabel): take a dataset "
    "of images with labels"
  )


def test_pixels_that_are_no_bytes(data_dir):
  edit(data_dir, "features.json", '"uint8"', '"float32"')
  assert refusal(data_dir) == (
    "feature 'image' of zoo/1.2.0 holds float32 pixels: only uint8 and uint16 "
    "are images"
  )


def test_names_of_classes(data_dir):
  path = data_dir / "zoo/1.2.0/label.labels.txt"
  path.write_text("cat\n\ndog\n")
  assert refusal(data_dir) == (
    f"{path} has 2 names for 3 classes: restore it or prepare zoo/1.2.0 again"
  )
  path.unlink()
  assert opened(data_dir).classes == ("0", "1", "2")
  edit(data_dir, "features.json", '"numClasses": "3"', "")
  assert refusal(data_dir) == "feature 'label' of zoo/1.2.0 has no classes"


# Damage.


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


def test_a_damaged_record_is_a_fault_that_travels():
  error = DamagedRecordError("shard: record 4")
  assert isinstance(error, Fault)
  copy = pickle.loads(pickle.dumps(error))  # noqa: S301
  assert (type(copy), str(copy)) == (DamagedRecordError, str(error))


def read_or_refused(data_dir, expected):
  """Whether damage is noticed: at the first record, or at any."""
  try:
    return any(damaged(opened(data_dir), expected))
  except DamagedRecordError:
    return True


@pytest.mark.parametrize("seed", range(20))
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


def test_a_shard_that_is_another_one(data_dir, shard):
  other = data_dir / "zoo/1.2.0/zoo-test.array_record-00000-of-00003"
  shutil.copy(other, shard)
  with pytest.raises(DamagedRecordError, match="5 records instead of 13; rest"):
    opened(data_dir)


def test_a_shard_that_is_replaced_is_read_anew(data_dir, shard):
  before = rows(opened(data_dir))
  copy = shutil.copy(shard, shard.with_name("copy"))
  data = bytearray(copy.read_bytes())
  data[3000] ^= 1
  copy.write_bytes(data)
  os.replace(copy, shard)
  assert any(damaged(opened(data_dir), before))
