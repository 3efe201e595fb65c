"""What an experiment computes about itself, and what it refuses."""

import dataclasses

import numpy as np
import pytest

from flexivit_jax.config.experiment import Experiment
from flexivit_jax.core import patch_size, resolution
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.core.sizes import check_tiling, common_divisors
from flexivit_jax.data.dataset import Dataset, check_same_classes
from flexivit_jax.data.packing import rows
from flexivit_jax.data.pixels import preprocessing
from flexivit_jax.data.sources import digits
from flexivit_jax.data.sources import source as source_lib
from flexivit_jax.nn import adaln
from flexivit_jax.nn.positions import row_column
from flexivit_jax.training import mixing, optimizer
from tests import tiny


def experiment(**changes):
  fields = dict(
    model=tiny.tiny(num_classes=None),
    patch_size=patch_size.FixedPatchSize(4),
    optimizer=optimizer.AdamW(1e-3),
    train=Dataset(digits.Digits()),
    test=Dataset(digits.Digits("test")),
    batch_size=64,
    total_steps=100,
  )
  return Experiment(**fields | changes)


def source(*classes):
  pixels = np.zeros((len(classes), 4, 4, 3), np.uint8)
  return source_lib.InMemory(pixels, np.arange(len(classes)), classes)


EPOCHS = {"total_steps": None, "total_epochs": 1.0}
PACKED = {
  "train": Dataset(digits.Digits(), resolution=resolution.Native()),
  "packing": rows.Packing(row_length=64, max_images=8),
}


def test_steps_are_given_or_follow_from_epochs():
  assert experiment().num_steps(1000) == 100
  # 1000 / 64 = 15.6 batches in an epoch.
  for epochs, steps in ((1.0, 16), (2.0, 31), (0.1, 2), (90.0, 1406)):
    given = experiment(**EPOCHS | {"total_epochs": epochs})
    assert given.num_steps(1000) == steps


@pytest.mark.parametrize(
  ("name", "low", "high"),
  [
    ("batch_size", 1, 2**24),
    ("eval_batch_size", 1, 2**24),
    ("eval_every", 1, 2**31 - 1),
    ("save_every", 1, 2**31 - 1),
    ("log_every", 1, 2**31 - 1),
    ("seed", 0, 2**32 - 1),
    ("workers", 0, 1024),
    ("threads", 0, 1024),
  ],
)
def test_whole_numbers_have_bounds(name, low, high):
  for value in (low, high):
    assert getattr(experiment(**{name: value}), name) == value
  for value in (low - 1, high + 1):
    with pytest.raises(ValueError, match=rf"{name} is {value}: .*{high}"):
      experiment(**{name: value})


@pytest.mark.parametrize(
  ("changes", "text"),
  [
    ({"total_steps": None}, "either total_steps or total_epochs"),
    ({"total_epochs": 1.0}, "either total_steps or total_epochs"),
    ({"total_steps": 0}, r"total_steps is 0: give 1 to"),
    (EPOCHS | {"total_epochs": 0.0}, "total_epochs is 0.0: give more than 0"),
    ({"accumulate": 0, "batch_size": 12}, "accumulate is 0: give 1 to"),
    ({"keep": 1}, "config.keep is 1: give 2 to"),
    (
      {"mix": (mixing.CutMix(), mixing.Mixup(images=5)), "batch_size": 4},
      r"config.mix\[1\] makes one of 5 images, but config.batch_size is 4",
    ),
    (
      PACKED | {"preprocessing": preprocessing.BvCompat()},
      'preprocessing "bv_compat" .*=antialias',
    ),
  ],
)
def test_what_cannot_be_is_refused(changes, text):
  with pytest.raises(ValueError, match=text):
    experiment(**changes)


def test_epochs_of_less_than_a_step():
  with pytest.raises(ConfigError, match=r"0\.01 epochs of 1000 images"):
    experiment(**EPOCHS | {"total_epochs": 0.01}).num_steps(1000)


def test_the_head_takes_the_classes_of_the_data():
  before = experiment()
  after = before.for_classes(("a", "b", "c"))
  assert after.model.num_classes == 3
  # Nothing else changed.
  unset = after.model.clone(num_classes=None)
  assert dataclasses.replace(after, model=unset) == before


def test_a_head_may_be_larger_but_not_smaller():
  given = experiment(model=tiny.tiny(num_classes=3))
  for classes in (("a", "b", "c"), ("a", "b")):
    assert given.for_classes(classes) == given
  with pytest.raises(ConfigError, match=r"num_classes is 3, .*4 classes"):
    given.for_classes(("a", "b", "c", "d"))


@pytest.mark.parametrize(
  ("changes", "classes", "text"),
  [
    (
      {"conditioning": adaln.AdaLNZero()},
      *("ab", 'config.model.conditioning is adaln_zero, .*="none"'),
    ),
    ({}, "a", "config.train: the data has one class, 'a': give at least two"),
  ],
)
def test_what_cannot_be_classified(changes, classes, text):
  model = tiny.tiny(num_classes=None, **changes)
  with pytest.raises(ConfigError, match=text):
    experiment(model=model).for_classes(tuple(classes))


def test_evaluation_data_must_have_the_classes_of_training():
  check_same_classes(source("a", "b"), source("a", "b"))
  text = r"2 classes, but the training data has 6; only here: \['x'\], only the"
  with pytest.raises(ValueError, match=text):
    check_same_classes(source(*"abcdef"), source("a", "x"))
  # In another order label 0 would mean another class.
  with pytest.raises(ValueError, match="classes"):
    check_same_classes(source("a", "b"), source("b", "a"))


@pytest.mark.parametrize(
  ("sizes", "position", "fits", "image_hw", "text"),
  [
    (
      *((4, (6, 8), 5), row_column.JointTable((60, 60))),
      *((120, 240), (24, 48)),
      "24x48 .*5x5 .*: 1, 2, 3, 4, 6, 8, 12, 24",
    ),
    (
      *((4, 6), row_column.JointTable((6, 8))),
      *((24, 24), (24, 36)),
      "6x9 patches are more than the 6x8",
    ),
  ],
)
def test_patch_sizes_must_tile_the_images_and_fit_the_positions(
  sizes, position, fits, image_hw, text
):
  given = experiment(
    model=tiny.tiny(position=position),
    patch_size=patch_size.SampledPatchSize(sizes),
  )
  given.check_patch_sizes(fits)
  with pytest.raises(ConfigError, match=f"config.patch_size: .*{text}"):
    given.check_patch_sizes(image_hw)


def test_common_divisors():
  check_tiling((24, 48), (6, 16))
  with pytest.raises(ValueError, match=r"24x48 pixels.*16x6 patches"):
    check_tiling((24, 48), (16, 6))
  assert common_divisors((16, 24)) == [1, 2, 4, 8]
  assert common_divisors((7, 9)) == [1]
  assert common_divisors((16, 24), 4) == [4, 8]
  assert common_divisors((18, 18), 4) == []


def test_config_errors_name_their_place_once():
  with pytest.raises(ConfigError) as caught, config_errors_at("config.train"):
    raise ValueError("no directory x")
  assert str(caught.value) == "config.train: no directory x"
  error = ConfigError("config.model: already named")
  with pytest.raises(ConfigError) as caught, config_errors_at("config.train"):
    raise error
  assert caught.value is error
  with pytest.raises(KeyError), config_errors_at("config.train"):
    raise KeyError("a mistake of ours")


def test_all_data_is_opened_in_one_mode():
  for mode in (preprocessing.ANTIALIAS, preprocessing.BvCompat()):
    run = experiment(preprocessing=mode)
    assert run.open(run.train).mode == run.open(run.test).mode == mode
