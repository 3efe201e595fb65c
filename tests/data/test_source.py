"""Sources: the digits, folders of images, fingerprints."""

import dataclasses
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from flexivit_jax.data.pixels import decode
from flexivit_jax.data.sources.digits import Digits
from flexivit_jax.data.sources.image_folder import ImageFolder
from flexivit_jax.data.sources.source import InMemory


def rows(source):
  """Each example as (pixels, label)."""
  return [
    (source.image(i).tobytes(), source.label(i)) for i in range(len(source))
  ]


def test_the_digits_are_split_in_two():
  train, test = Digits("train", side=8).open(), Digits("test", side=8).open()
  assert (len(train), len(test)) == (1297, 500)
  assert train.classes == test.classes == tuple("0123456789")
  # Disjoint and complete, labels included: together they are the whole set.
  raw = datasets.load_digits()
  pixels = np.round(raw.images * 255 / 16).astype(np.uint8)
  pixels = np.repeat(pixels[..., None], 3, axis=-1)
  whole = [(p.tobytes(), int(t)) for p, t in zip(pixels, raw.target)]
  assert sorted(rows(train) + rows(test)) == sorted(whole)
  # A stratified split is off by rounding to whole images only.
  counts = np.bincount(test.labels, minlength=10)
  expected = 500 * np.bincount(raw.target) / 1797
  np.testing.assert_allclose(counts, expected, atol=1)


def test_slices_of_the_digits():
  splits = ("train", "train[:200]", "train[200:]", "test", "train[:201]")
  whole, part, rest, *others = (Digits(split).open() for split in splits)
  assert (len(part), len(rest)) == (200, 1097)
  assert sorted(rows(part) + rows(rest)) == sorted(rows(whole))
  assert set(part.labels) == set(range(10))
  sources = whole, part, rest, *others, Digits("train", side=8).open()
  assert len({s.fingerprint for s in sources}) == len(sources)
  assert rows(Digits().open()) == rows(whole)
  assert Digits().open().fingerprint == whole.fingerprint


def test_digits_are_grey_images_of_the_side_asked_for():
  for side in (8, 24, 30):
    source = Digits("test[:5]", side=side).open()
    image = source.image(3)
    assert image.shape == (side, side, 3)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, image[..., :1].repeat(3, axis=-1))
    assert image.max() > 200  # ink of 16 is white


def test_a_fingerprint_sees_pixels_labels_order_and_classes():
  pixels = np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2, 1).repeat(3, -1)
  source = InMemory(pixels, np.array([0, 1, 0]), ("a", "bc"))
  brighter = pixels.copy()
  brighter[1, 1, 0, 2] += 1
  others = [
    dataclasses.replace(source, pixels=brighter),
    dataclasses.replace(source, labels=np.array([0, 1, 1])),
    dataclasses.replace(source, classes=("b", "ac")),
    dataclasses.replace(source, classes=("ab", "c")),
    InMemory(pixels[[1, 0, 2]], source.labels[[1, 0, 2]], source.classes),
    InMemory(pixels[:2], source.labels[:2], source.classes),
  ]
  fingerprints = {s.fingerprint for s in (source, *others)}
  assert len(fingerprints) == 1 + len(others)
  # Not the type of the labels: a platform's int is no other data.
  copy = InMemory(pixels.copy(), np.array([0, 1, 0], np.int32), ("a", "bc"))
  assert copy.fingerprint == source.fingerprint


def test_images_of_several_sizes_in_memory():
  tall, wide = (np.zeros((*hw, 3), np.uint8) for hw in ((4, 2), (2, 4)))
  labels = np.array([0, 1])
  source = InMemory((tall, wide), labels, ("a", "b"))
  assert [source.size(i) for i in range(2)] == [(4, 2), (2, 4)]
  assert source.image(1).shape == (2, 4, 3)
  # The same bytes in other shapes are other images.
  other = InMemory((wide, tall), labels, ("a", "b"))
  assert other.fingerprint != source.fingerprint
  source = InMemory(np.zeros((2, 4, 2, 3), np.uint8), labels, ("a", "b"))
  assert source.size(1) == (4, 2)


# Red, green, blue and yellow: what JPEG keeps apart.
COLOURS = {"cat": [(255, 0, 0), (0, 255, 0)], "dog": [(0, 0, 255)] * 2}


@pytest.fixture
def folder(tmp_path):
  """PATH/train/{cat,dog}: JPEG and PNG files of several sizes."""
  for name, colours in COLOURS.items():
    (tmp_path / "train" / name).mkdir(parents=True)
    for i, colour in enumerate(colours):
      image = Image.new("RGB", (10 + i, 6), colour)
      suffix = ("PNG", "jpg")[i]
      image.save(tmp_path / "train" / name / f"{i}.{suffix}")
  (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
  (tmp_path / "train" / "README").write_text("no class")
  return tmp_path


def test_a_folder_of_images(folder):
  source = ImageFolder(str(folder)).open()
  assert source.classes == ("cat", "dog")
  assert source.paths == ("cat/0.PNG", "cat/1.jpg", "dog/0.PNG", "dog/1.jpg")
  assert [source.label(i) for i in range(len(source))] == [0, 0, 1, 1]
  expected = COLOURS["cat"] + COLOURS["dog"]
  for i, colour in enumerate(expected):
    image = source.image(i)
    assert image.shape == (6, 10 + i % 2, 3)
    assert image.dtype == np.uint8
    # JPEG's rounding in YCbCr.
    np.testing.assert_allclose(
      image.astype(int), np.broadcast_to(colour, image.shape), atol=4
    )


def test_sizes_of_a_folder_without_decoding(folder):
  source = ImageFolder(str(folder)).open()
  sizes = [source.size(i) for i in range(len(source))]
  assert sizes == [source.image(i).shape[:2] for i in range(len(source))]
  assert sizes == [(6, 10), (6, 11)] * 2
  path = folder / "train" / "cat" / "0.PNG"
  path.write_bytes(b"<html>")
  with pytest.raises(decode.BadImageError, match=f"^{re.escape(str(path))}: "):
    source.size(0)
  path.unlink()
  for read in (source.size, source.image):
    with pytest.raises(decode.BadImageError) as caught:
      read(0)
    assert str(caught.value) == (
      f"{path}: cannot read it: No such file or directory"
    )


@pytest.mark.parametrize(
  "change", ["grow", "rename", "relabel", "add", "remove"]
)
def test_the_fingerprint_of_a_folder_sees(folder, change):
  before = ImageFolder(str(folder)).open().fingerprint
  assert ImageFolder(str(folder)).open().fingerprint == before
  root = folder / "train"
  first, last = root / "cat" / "0.PNG", root / "dog" / "1.jpg"
  (root / "eel").mkdir()
  {
    "grow": lambda: Image.new("RGB", (64, 64)).save(last),
    "rename": lambda: first.rename(root / "cat" / "2.PNG"),
    "relabel": lambda: first.rename(root / "dog" / "2.PNG"),
    "add": lambda: Image.new("RGB", (4, 4)).save(root / "eel" / "0.png"),
    "remove": last.unlink,
  }[change]()
  if change != "add":
    (root / "eel").rmdir()
  assert ImageFolder(str(folder)).open().fingerprint != before


def test_the_fingerprint_of_a_folder_does_not_see_where_it_lies(
  folder, tmp_path
):
  moved = tmp_path / "elsewhere"
  shutil.copytree(folder / "train", moved / "train")
  first, second = (ImageFolder(str(p)).open() for p in (folder, moved))
  assert first.fingerprint == second.fingerprint
  part = ImageFolder(str(folder), "train[:2]").open()
  assert part.fingerprint != first.fingerprint


IMAGES = "looked for .jpg, .jpeg, .png, .webp, .bmp, .gif"


def test_refusals(folder):
  for split in ("none", "bare", "empty/a"):
    if split != "none":
      (folder / split).mkdir(parents=True)
  # Images that lie outside a class folder do not count.
  Image.new("RGB", (4, 4)).save(folder / "bare" / "0.png")
  shutil.copytree(folder / "train", folder / "hole")
  (folder / "hole" / "eel").mkdir()
  for source, text in (
    (Digits("val[:5]"), "digits have no split 'val': take 'train' or 'test'"),
    (
      ImageFolder(str(folder), "none[:5]"),
      f"no directory {folder}/none: images belong in {folder}/none/CLASS/*.jpg",
    ),
    *(
      (
        ImageFolder(str(folder), split),
        f"no image in {folder}/{split}/CLASS/: {IMAGES}",
      )
      for split in ("bare", "empty")
    ),
    (
      ImageFolder(str(folder), "hole"),
      f"no image in {folder}/hole/eel: remove or fill it",
    ),
  ):
    with pytest.raises(ValueError, match=re.escape(text)):
      source.open()
