"""A mode goes from the source to every decoding and resizing of its images."""

import io

import numpy as np
import pytest
from PIL import Image

from flexivit_jax.data.loading import eval_loader, loader
from flexivit_jax.data.loading import example as example_lib
from flexivit_jax.data.pixels import preprocessing, transforms
from flexivit_jax.data.prepare import tfds_writer
from flexivit_jax.data.sources import digits, image_folder
from flexivit_jax.data.sources.tfds import Tfds

COMPAT = preprocessing.BvCompat()
TRANSFORMS = (transforms.Resize((20, 18)), transforms.CentralCrop((16, 18)))


def jpeg(i):
  rng = np.random.default_rng(i)
  pixels = rng.integers(0, 256, (40, 30 + i, 3), dtype=np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, "JPEG")
  return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp("folder")
  for i in range(6):
    path = root / "train" / "ab"[i % 2] / f"{i}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(i))
  return image_folder.ImageFolder(str(root))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
  root = tmp_path_factory.mktemp("records")
  (directory := root / "set" / "1.0.0").mkdir(parents=True)
  # In the order of the folder's.
  examples = [
    tfds_writer.Example("train", i % 2, f"{i}.jpg", jpeg(i))
    for i in (0, 2, 4, 1, 3, 5)
  ]
  tfds_writer.write(directory, "set", "1.0.0", ("a", "b"), examples)
  return Tfds("set", "train", str(root))


def expected(source, index, mode):
  encoded = jpeg((0, 2, 4, 1, 3, 5)[index])
  return mode.resize(mode.decode(encoded, "x"), (20, 18))[2:18]


@pytest.mark.parametrize("kind", ["folder", "records"])
@pytest.mark.parametrize("mode", [preprocessing.ANTIALIAS, COMPAT], ids=repr)
def test_training_and_evaluation_see_the_same(kind, mode, request):
  source = preprocessing.open_source(request.getfixturevalue(kind), mode)
  images = [expected(source, i, mode) for i in range(6)]
  others = [expected(source, i, preprocessing.ANTIALIAS) for i in range(6)]
  assert (mode == preprocessing.ANTIALIAS) == np.array_equal(images, others)
  train = loader.TrainLoader(source, TRANSFORMS, batch_size=6, seed=0)
  batch = next(train)
  for i, image in zip(batch.index[:, 0], batch.inputs, strict=True):
    np.testing.assert_array_equal(image, images[i])
  ((_, batch),) = eval_loader.EvalLoader(source, [TRANSFORMS], 6)
  np.testing.assert_array_equal(batch.inputs, images)


def test_crops_resize_by_the_mode(folder):
  source = preprocessing.open_source(folder, COMPAT)
  image = source.image(3)
  for transform in (
    transforms.ResizeCrop(20, (12, 14)),
    transforms.InceptionCrop((12, 14)),
  ):
    rng = np.random.default_rng
    made = transform(image, rng(1), COMPAT)
    assert made.shape == (12, 14, 3)
    example = example_lib.Example(source, (transform,))
    np.testing.assert_array_equal(example(3, rng(1))[0], made)
    assert not np.array_equal(made, transform(image, rng(1)))


def test_a_random_crop_is_the_same_part_in_each_mode():
  # Of a plane, four pixels tell as much as all that lie between.
  rows, columns = np.mgrid[:60, :80]
  plane = np.stack([3 * rows, 3 * columns, rows + columns], -1).astype(np.uint8)
  transform = transforms.InceptionCrop((10, 10), area=(0.5, 1.0))
  for seed in range(20):
    rng = np.random.default_rng
    a = transform(plane, rng(seed)).astype(int)
    b = transform(plane, rng(seed), COMPAT)
    # The edges aside, where antialias looks beyond the part.
    assert np.abs(a - b)[1:-1, 1:-1].max() <= 2


def test_a_run_resumes_in_its_own_mode_only(folder):
  def state(mode):
    source = preprocessing.open_source(folder, mode)
    return loader.TrainLoader(source, TRANSFORMS, batch_size=2, seed=0)

  usual, compat = state(preprocessing.ANTIALIAS), state(COMPAT)
  usual.set_state(state(preprocessing.ANTIALIAS).get_state())
  compat.set_state(state(COMPAT).get_state())
  for one, other in ((usual, compat), (compat, usual)):
    with pytest.raises(ValueError, match=r"\) by BvCompat\(\)"):
      one.set_state(other.get_state())


def test_what_is_in_memory_is_resized_by_the_mode():
  source = preprocessing.open_source(digits.Digits("test", 24), COMPAT)
  example = example_lib.Example(source, (transforms.Resize((13, 9)),))
  np.testing.assert_array_equal(
    example(0, None)[0], COMPAT.resize(source.image(0), (13, 9))
  )
