"""Datasets that TFDS prepared: how they are found, fingerprints, refusals."""

import re
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
import zoo
from zoo import TRAIN, opened, pixels

from flexivit_jax.data.sources.array_record import DamagedRecordError
from flexivit_jax.data.sources.tfds import Tfds


class Pairs(zoo.SmallDataset):
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
      left, right = zoo.encoded(pixels(i)), zoo.encoded(pixels(i)[..., 0])
      # Labels of one, two and three bytes.
      fine = (i, 100 * i, 3_000 * i)[i % 3]
      yield i, dict(left=left, right=right, coarse=i, fine=fine)


class Words(zoo.SmallDataset):
  """No images."""

  def _features(self):
    return {"label": tfds.features.ClassLabel(names=zoo.CLASSES)}

  def _generate_examples(self):
    yield 0, {"label": 0}


class Unlabelled(zoo.SmallDataset):
  """A test split without labels."""

  def _split_generators(self, _):
    return {
      "train": self._generate_examples(label=0),
      "test": self._generate_examples(label=-1),
    }

  def _generate_examples(self, label):
    yield from ((i, zoo.example(i) | {"label": label}) for i in range(3))


def edit(data_dir, name, pattern, new, version="1.2.0"):
  path = data_dir / "zoo" / version / name
  text, count = re.subn(pattern, new, path.read_text())
  assert count
  path.write_text(text)


def test_several_images_and_labels(tmp_path):
  zoo.prepare(Pairs, tmp_path)
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


def test_modules_that_the_data_names_are_not_imported(data_dir, monkeypatch):
  (data_dir / "evil.py").write_text("raise SystemExit('imported')")
  monkeypatch.syspath_prepend(data_dir)
  edit(data_dir, "features.json", r"tensorflow_[\w.]+\.Text", "evil.Text")
  assert len(opened(data_dir)) == TRAIN
  with pytest.raises(SystemExit, match="imported"):
    tfds.builder_from_directory(data_dir / "zoo" / "1.2.0")


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
  # A relative one becomes absolute.
  monkeypatch.chdir(prepared.parent)
  spec = Tfds("zoo", data_dir=prepared.name)
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


def relabel(folder):
  (folder / "label.labels.txt").write_text("cat\ndog\nape\n")


def grow(folder):
  shard = folder / "zoo-train.array_record-00001-of-00003"
  shard.write_bytes(shard.read_bytes() + bytes(1 << 16))


def newer(folder):
  folder.rename(folder.with_name("1.2.1"))


@pytest.mark.parametrize("change", [relabel, grow, newer])
def test_the_fingerprint_sees(data_dir, change):
  before = opened(data_dir, split="train[:10]").fingerprint
  assert opened(data_dir, split="train[:10]").fingerprint == before
  change(data_dir / "zoo" / "1.2.0")
  assert opened(data_dir, split="train[:10]").fingerprint != before


def test_splits_and_slices_have_fingerprints_of_their_own(prepared, tmp_path):
  names = ("train", "test", "train[:20]", "train[20:]", "train[:21]")
  found = [opened(prepared, split=s).fingerprint for s in names]
  assert len(set(found)) == len(names)
  moved = shutil.copytree(prepared, tmp_path / "elsewhere")
  assert opened(moved).fingerprint == found[0]
  # The same examples, said in another way.
  assert opened(moved, split="train[:50%]").fingerprint == found[2]


def refusal(*arguments, **options):
  with pytest.raises(ValueError) as caught:
    opened(*arguments, **options)
  return str(caught.value)


def command(dataset, data_dir):
  return (
    f"python -m flexivit_jax prepare tfds:{dataset} --data_dir {data_dir} "
    "(docs/data.md)"
  )


@pytest.mark.parametrize(
  "name", ["../zoo", "/zoo", "zoo/..", "zoo\\x", "zoo:1.2", "zoo:1.*.*",
           "zoo/a/b", "", "zoo\n", "zoo:1.2.0/..", "~", "zoo/x=1"],
)  # fmt: skip
def test_a_name_is_no_path(prepared, name):
  text = refusal(prepared, name)
  assert text.startswith(f"dataset {name!r}: give a name of TFDS such as ")


def test_a_dataset_that_is_not_prepared(prepared, tmp_path):
  assert refusal(prepared, "zoos") == (
    f"'zoos' is not prepared in {prepared} (did you mean 'zoo:1.2.0'?). "
    f"Prepare it: {command('zoos', prepared)}"
  )
  assert f"{prepared}; there: 'zoo:1.2.0'. " in refusal(prepared, "cifar10")
  for name in ("zoo:1.3.0", "zoo/large"):
    assert "(did you mean 'zoo:1.2.0'?). " in refusal(prepared, name)
  assert f"{tmp_path}, nor is any other. " in refusal(tmp_path, "zoo")
  missing = tmp_path / "none"
  assert refusal(missing, "cifar10") == (
    f"no directory {missing}: set data_dir to where 'cifar10' is prepared, or "
    f"prepare it there: {command('cifar10', missing)}"
  )


def test_no_such_split(data_dir, tmp_path):
  text = "zoo/1.2.0 has no split 'val': take 'train', 'test'"
  assert refusal(data_dir, split="val[:5]") == text
  assert "give a name such as 'train'" in refusal(data_dir, split="train[::2]")
  assert "takes none of 40" in refusal(data_dir, split="train[40:]")
  zoo.prepare(Unlabelled, tmp_path)
  text = "split 'test' of unlabelled/1.2.0 has no labels: its splits are "
  assert refusal(tmp_path, "unlabelled", "test").startswith(text)
  assert len(opened(tmp_path, "unlabelled")) == 3


def test_damaged_metadata(data_dir):
  for name in ("features.json", "dataset_info.json"):
    path = data_dir / "zoo" / "1.2.0" / name
    text = path.read_text()
    path.write_text(text[:-9])
    assert refusal(data_dir).startswith(f"cannot read {path}: ")
    for wrong in ("[]", '{"splits": 3}', '{"featuresDict": []}'):
      path.write_text(wrong)
      assert "is not what TFDS writes (" in refusal(data_dir)
    path.unlink()
    missing = f"cannot read {path}: ", "'zoo' is not prepared"
    assert missing[name == "dataset_info.json"] in refusal(data_dir)
    path.write_text(text)


def test_names_of_classes(data_dir):
  path = data_dir / "zoo/1.2.0/label.labels.txt"
  path.write_text("cat\n\ndog\n")
  assert f"{path} has 2 names for 3 classes: restore" in refusal(data_dir)
  path.unlink()
  assert opened(data_dir).classes == ("0", "1", "2")


@pytest.mark.parametrize(
  ("pattern", "new", "text"),
  [
    ('"array_record"', '"tfrecord"', "tfrecord files, which only TensorFlow "),
    ('"fileFormat": "array_record",', "", "tfrecord files, which only Tensor"),
    (r'"1\d"', '"0"', "split 'train' of zoo/1.2.0 is empty: its splits are 't"),
    (r"\{DATASET\}.*\}", "../{SPLIT}", "a shard elsewhere, '../train'"),
    (r"\{DATASET\}.*\}", "/etc/{SPLIT}", "a shard elsewhere, '/etc/train'"),
    ('"uint8"', '"float32"', "holds float32 pixels: only uint8 and uint16 ar"),
    ('"numClasses": "3"', "", "feature 'label' of zoo/1.2.0 has no classes"),
  ],
)
def test_metadata_of_what_cannot_be_read(data_dir, pattern, new, text):
  pixels = any(x in pattern for x in ("uint8", "numClasses"))
  name = "features.json" if pixels else "dataset_info.json"
  (data_dir / "zoo/1.2.0/label.labels.txt").unlink()
  edit(data_dir, name, pattern, new)
  assert text in refusal(data_dir)


def test_a_missing_shard(data_dir):
  shard = data_dir / "zoo/1.2.0/zoo-train.array_record-00002-of-00003"
  for change, reason in (
    (shard.unlink, "No such file or directory"),
    (shard.touch, "it is empty"),
  ):
    change()
    assert refusal(data_dir) == (
      f"shard {shard}: {reason}; restore it or prepare zoo/1.2.0 again"
    )
  assert len(opened(data_dir, split="test")) == zoo.TEST


def test_features_that_are_no_images_with_labels(tmp_path):
  for builder in (Pairs, Words):
    zoo.prepare(builder, tmp_path)
  for name, key, text in (
    ("pairs", None, "has several Images: set image_key to 'left', 'right'"),
    ("pairs", "left", "ClassLabels: set label_key to 'coarse', 'fine'"),
    ("pairs", "fine", "no Image feature 'fine': set image_key to 'left', 'r"),
    ("words", None, "no Image feature, but label (ClassLabel): take a dat"),
  ):
    assert text in refusal(tmp_path, name, image_key=key)


def test_shards_of_another_split(data_dir):
  edit(data_dir, "dataset_info.json", '"13"', '"12"')
  with pytest.raises(DamagedRecordError, match="it holds 13 records instead"):
    opened(data_dir)
