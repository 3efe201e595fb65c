"""Images with any number of labels: lists, prepared data, batches, packs."""

import io
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds
import zoo
from PIL import Image

from flexivit_jax.core.patch_size import FixedPatchSize
from flexivit_jax.core.resolution import Native
from flexivit_jax.core.token_drop import NoDrop
from flexivit_jax.data.loading.eval_loader import EvalLoader
from flexivit_jax.data.loading.loader import TrainLoader
from flexivit_jax.data.packing import rows
from flexivit_jax.data.packing.cutter import Cutter
from flexivit_jax.data.packing.eval_loader import PackEvalLoader
from flexivit_jax.data.packing.loader import PackLoader
from flexivit_jax.data.sources import source as source_lib
from flexivit_jax.data.sources.listed_images import ListedImages
from flexivit_jax.data.sources.source import LabelError
from flexivit_jax.data.sources.tfds import Tfds

LABELS = [[0, 2], [2], [], [0, 1, 2], [1]]
PADDED = np.array([[0, 2, -1], [2, -1, -1], [-1] * 3, [0, 1, 2], [1, -1, -1]])


@pytest.fixture
def listed(tmp_path):
  """A directory of five images, and their list."""
  lines = []
  for i, own in enumerate(LABELS):
    buffer = io.BytesIO()
    pixels = np.full((8, 8 + 4 * (i % 2), 3), i, np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    (tmp_path / f"{i}.png").write_bytes(buffer.getvalue())
    names = (zoo.CLASSES[label] for label in own)
    lines.append("\t".join((f"{i}.png", *names)))
  (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
  (tmp_path / "classes.txt").write_text("".join(f"{x}\n" for x in zoo.CLASSES))
  return tmp_path


def memory(labels=PADDED, classes=("a", "b", "c")):
  pixels = np.zeros((len(labels), 8, 8, 3), np.uint8)
  return source_lib.InMemory(pixels, np.asarray(labels), classes)


def test_a_list_of_files(listed):
  source = ListedImages(str(listed)).open()
  assert source.classes == zoo.CLASSES
  assert len(source) == 5
  for i, own in enumerate(PADDED):
    np.testing.assert_array_equal(source.label(i), own)
    assert source.label(i).dtype == np.int32
    assert (source.image(i) == i).all()
  half = ListedImages(str(listed), "train[:40%]").open()
  rest = ListedImages(str(listed), "train[40%:]").open()
  assert sorted((*half.paths, *rest.paths)) == [f"{i}.png" for i in range(5)]
  assert half.label(0).shape == (3,)
  prints = {x.fingerprint for x in (source, half, rest)}
  lines = (listed / "train.tsv").read_text().replace("0.png\tcat", "0.png\tdog")
  (listed / "train.tsv").write_text(lines)
  prints.add(ListedImages(str(listed)).open().fingerprint)
  assert len(prints) == 4


def test_a_list_of_one_label_each_is_still_one_of_several(listed):
  (listed / "train.tsv").write_text("0.png\tdog\r\n\n1.png\teel\r\n")
  source = ListedImages(str(listed)).open()
  np.testing.assert_array_equal(source.labels, [[1, -1], [2, -1]])


@pytest.mark.parametrize(
  ("file", "text", "message"),
  [
    ("classes.txt", "\n", "classes.txt is empty"),
    ("classes.txt", "cat\ncat\n", "classes.txt has 'cat' twice"),
    ("train.tsv", "\n", "train.tsv is empty"),
    ("train.tsv", "0.png\n1.png\tcow\n", "train.tsv:2: class 'cow' is not in "),
    ("train.tsv", "1.png\tcat\tcat\n", "train.tsv:1: a class is there twice"),
    ("train.tsv", "../1.png\tcat\n", "'../1.png' leads elsewhere: give paths "),
    ("train.tsv", "/1.png\tcat\n", "'/1.png' leads elsewhere: give paths "),
    ("train.tsv", None, "cannot read "),
  ],
)
def test_lists_that_cannot_be(listed, file, text, message):
  (listed / file).unlink()
  if text is not None:
    (listed / file).write_text(text)
  with pytest.raises(ValueError, match=re.escape(message)):
    ListedImages(str(listed)).open()


class Several(zoo.SmallDataset):
  """As TFDS keeps several labels, with one more feature of one label."""

  def _features(self):
    return {
      "image": tfds.features.Image(),
      "labels": tfds.features.Sequence(
        tfds.features.ClassLabel(names=zoo.CLASSES)
      ),
    }

  def _generate_examples(self):
    for i, own in enumerate(LABELS):
      yield i, {"image": zoo.encoded(zoo.pixels(i)), "labels": own}


@pytest.fixture(scope="module")
def several(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("several")
  zoo.prepare(Several, data_dir)
  return data_dir


def test_a_sequence_of_labels_of_tfds(several):
  source = Tfds("several", "train", str(several), max_labels=9).open()
  assert source.classes == zoo.CLASSES
  found = {source.image(i).tobytes(): source.label(i) for i in range(5)}
  for i, own in enumerate(PADDED):
    label = found[zoo.pixels(i).tobytes()]
    np.testing.assert_array_equal(label, [*own, *[-1] * 6])


def test_how_many_labels_an_image_has_must_be_said(several, data_dir):
  for dataset, root, fields, text in (
    ("several", several, {}, "holds several labels .*: set max_labels to the"),
    ("zoo", data_dir, {"max_labels": 3}, "one label .*: leave max_labels out"),
    ("several", several, {"max_labels": 1}, "max_labels is 1: give 2 to 4096"),
  ):
    with pytest.raises(ValueError, match=text):
      Tfds(dataset, "train", str(root), **fields).open()


def test_more_labels_than_were_said(several):
  source = Tfds("several", "train", str(several), max_labels=2).open()
  with pytest.raises(LabelError, match=" has 3 labels: set max_labels, 2 now"):
    [source.label(i) for i in range(5)]


def test_batches_have_a_row_of_labels_for_each_image():
  train = TrainLoader(memory(), (), batch_size=4, seed=0)
  example = train.example()
  for _ in range(3):
    batch = next(train)
    assert batch.labels.shape == example.labels.shape == (4, 1, 3)
    assert batch.labels.dtype == example.labels.dtype == np.int32
    np.testing.assert_array_equal(batch.labels, PADDED[batch.index])


def test_an_evaluation_fills_up_with_no_label():
  batches = EvalLoader(memory(), [()], 4)
  (_, first), (_, last) = batches
  np.testing.assert_array_equal(first.labels[:, 0], PADDED[:4])
  np.testing.assert_array_equal(last.labels[0, 0], PADDED[4])
  assert (last.labels[1:] == -1).all()
  assert batches.example(0).labels.shape == (4, 1, 3)
  assert (batches.example(0).labels == -1).all()


def test_packed_rows_have_labels_in_their_slots(listed):
  source = ListedImages(str(listed)).open()
  cutter = Cutter(Native(), FixedPatchSize((4, 4)), NoDrop(), 16)
  packing = rows.Packing(row_length=16, max_images=4)
  train = PackLoader(source, (), cutter, packing, batch_size=2, seed=0)
  evaluation = PackEvalLoader(source, (), [(cutter, packing)], 2)
  seen = [batch for _, batch in evaluation]
  for batch in (next(train), next(train), *seen):
    assert batch.labels.shape == (2, 4, 3)
    there = batch.weights > 0
    np.testing.assert_array_equal(
      batch.labels[there], PADDED[batch.index[there]]
    )
    assert (batch.labels[~there] == -1).all()
  total = sum(batch.weights.sum() for batch in seen)
  assert total == len(LABELS)
  assert sum((~(batch.weights > 0)).sum() for batch in seen) > 0
  for example in (train.example(), evaluation.example(0)):
    assert example.labels.shape == (2, 4, 3)
    assert (example.labels == -1).all()


def test_a_label_of_no_class():
  labels = np.array([[0, -1, -1], [1, -2, -1]])
  with pytest.raises(LabelError, match="image 1 has label -2: with 3 class"):
    list(EvalLoader(memory(labels), [()], 2))
