"""A small dataset for TFDS to prepare, and a base for more of them."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from flexivit_jax.data.sources.tfds import Tfds

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


class SmallDataset(tfds.core.GeneratorBasedBuilder):
  """What is the same for all the datasets of the tests."""

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


class Zoo(SmallDataset):
  """Two splits of PNG images."""

  def _split_generators(self, _):
    every = range(TRAIN + TEST)
    return {
      "train": self._generate_examples(every[:TRAIN]),
      "test": self._generate_examples(every[TRAIN:]),
    }

  def _generate_examples(self, numbers):
    yield from ((i, example(i)) for i in numbers)


def prepare(builder, data_dir, shards=1):
  tfds.disable_progress_bar()
  builder(data_dir=data_dir, file_format="array_record").download_and_prepare(
    download_config=tfds.download.DownloadConfig(num_shards=shards)
  )


def rows(source, order=None):
  """Each example as (pixels, label)."""
  order = range(len(source)) if order is None else order
  return [(source.image(i).tobytes(), source.label(i)) for i in order]


def opened(data_dir, dataset="zoo", split="train", **options):
  return Tfds(dataset, split, str(data_dir), **options).open()
