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
from flexivit_jax.models import sizes as sizes_lib
from flexivit_jax.models import vit
from flexivit_jax.models.backbone import check_patch_size
from flexivit_jax.nn import adaln, pooling
from flexivit_jax.nn.positions import position as position_lib
from flexivit_jax.nn.positions import row_column, waves
from flexivit_jax.nn.stems import early_convolutions
from flexivit_jax.training import mixing, optimizer


def experiment(**changes):
  fields = dict(
    model=vit.ViT(
      sizes_lib.SIZES["mu"], position_lib.NoPosition(), pooling.Gap()
    ),
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


def test_steps_are_given_or_follow_from_epochs():
  assert experiment().num_steps(1000) == 100
  by_epochs = {"total_steps": None, "batch_size": 64}
  # 1000 / 64 = 15.6 batches in an epoch.
  for epochs, steps in ((1.0, 16), (2.0, 31), (0.1, 2), (90.0, 1406)):
    given = experiment(total_epochs=epochs, **by_epochs)
    assert given.num_steps(1000) == steps


def test_no_step_at_all():
  short = experiment(total_steps=None, total_epochs=0.01)
  with pytest.raises(ConfigError) as caught:
    short.num_steps(1000)
  assert str(caught.value) == (
    "0.01 epochs of 1000 images at batch size 64 are no step: raise "
    "total_epochs or total_steps"
  )


@pytest.mark.parametrize("steps", [0, -5])
def test_no_step_at_all_when_steps_were_given(steps):
  with pytest.raises(ValueError, match=rf"total_steps is {steps}\b") as caught:
    experiment(total_steps=steps).num_steps(1000)
  assert "None" not in str(caught.value)  # epochs were never given


@pytest.mark.parametrize(
  "length",
  [
    {"total_steps": None},
    {"total_steps": 100, "total_epochs": 1.0},
  ],
)
def test_steps_or_epochs_but_not_both(length):
  with pytest.raises(ValueError) as caught:
    experiment(**length)
  assert str(caught.value) == (
    "give either total_steps or total_epochs, and None for the other: "
    "--config.total_steps=None"
  )


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
    with pytest.raises(ValueError) as caught:
      experiment(**{name: value})
    assert str(caught.value) == (
      f"config.{name} is {value}: give {low} to {high}"
    )


def test_a_batch_in_no_part():
  with pytest.raises(ConfigError) as caught:
    experiment(accumulate=0, batch_size=12)
  assert str(caught.value) == (
    "config.accumulate is 0: give a number that divides config.batch_size, 1, "
    "2, 3, 4, 6, 12"
  )


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_epochs_are_more_than_none(value):
  with pytest.raises(ValueError) as caught:
    experiment(total_steps=None, total_epochs=value)
  assert str(caught.value) == (
    f"config.total_epochs is {value}: give more than 0"
  )


def test_a_run_of_more_steps_than_can_be_counted_is_refused():
  long = experiment(total_steps=None, total_epochs=1e9, batch_size=1)
  with pytest.raises(ConfigError, match="are 5000000000 steps: give at"):
    long.num_steps(5)


def test_a_batch_has_images_enough_to_mix():
  ways = (mixing.CutMix(), mixing.Mixup(images=5))
  assert experiment(mix=ways, batch_size=5).mix == ways
  for i, batch_size in ((1, 4), (0, 1)):
    with pytest.raises(ConfigError) as caught:
      experiment(mix=ways, batch_size=batch_size)
    assert str(caught.value) == (
      f"config.mix[{i}] makes one of {ways[i].images} images, but "
      f"config.batch_size is {batch_size}: an image would be mixed with itself"
    )


def test_two_checkpoints_are_kept():
  assert experiment(keep=2).keep == 2
  with pytest.raises(ConfigError) as caught:
    experiment(keep=1)
  assert str(caught.value) == (
    "config.keep is 1: keep at least 2 checkpoints, so that one survives "
    "damage to the other"
  )


def test_the_head_takes_the_classes_of_the_data():
  before = experiment()
  after = before.for_classes(("a", "b", "c"))
  assert after.model.num_classes == 3
  # Nothing else changed.
  unset = after.model.clone(num_classes=None)
  assert dataclasses.replace(after, model=unset) == before


def test_a_head_may_be_larger_but_not_smaller():
  model = experiment().model.clone(num_classes=3)
  for classes in (("a", "b", "c"), ("a", "b")):
    given = experiment(model=model)
    assert given.for_classes(classes) == given
  with pytest.raises(ConfigError) as caught:
    experiment(model=model).for_classes(("a", "b", "c", "d"))
  assert str(caught.value) == (
    "config.model.num_classes is 3, but the data has 4 classes: leave it out, "
    "or give 4 or more"
  )


def test_blocks_that_read_a_condition_do_not_classify():
  model = experiment().model.clone(conditioning=adaln.AdaLNZero())
  with pytest.raises(ConfigError) as caught:
    experiment(model=model).for_classes(("a", "b"))
  assert str(caught.value) == (
    "config.model.conditioning is adaln_zero, whose blocks are told time and "
    'class: give config.task.name="diffusion", or '
    'config.model.conditioning="none"'
  )


def test_evaluation_data_must_have_the_classes_of_training():
  check_same_classes(source("a", "b"), source("a", "b"))
  with pytest.raises(ValueError) as caught:
    check_same_classes(source(*"abcdef"), source("a", "x"))
  assert str(caught.value) == (
    "2 classes, but the training data has 6; only here: ['x'], only there: "
    "['b', 'c', 'd']. Give both the same class folders"
  )


def test_the_order_of_classes_matters():
  # Label 0 would mean another class.
  with pytest.raises(ValueError, match="classes"):
    check_same_classes(source("a", "b"), source("b", "a"))


def test_patch_sizes_must_tile_the_images():
  sizes = patch_size.SampledPatchSize((4, (6, 8), 5))
  given = experiment(patch_size=sizes)
  given.check_patch_sizes((120, 240))
  with pytest.raises(ConfigError) as caught:
    given.check_patch_sizes((24, 48))
  assert str(caught.value) == (
    "config.patch_size: an image of 24x48 pixels is not a whole number of 5x5 "
    "patches: resize it to 25x50, or take a patch size whose sides divide 24 "
    "and 48; sides that divide both: 1, 2, 3, 4, 6, 8, 12, 24"
  )


def test_a_grid_beyond_the_models_positions_is_refused():
  position = row_column.JointTable((6, 8))
  model = vit.ViT(sizes_lib.SIZES["mu"], position, pooling.Gap())
  sizes = patch_size.SampledPatchSize((4, 6))
  given = experiment(model=model, patch_size=sizes)
  given.check_patch_sizes((24, 24))
  with pytest.raises(ConfigError) as caught:
    given.check_patch_sizes((24, 36))
  assert str(caught.value) == (
    "config.patch_size: 6x9 patches are more than the 6x8 that the model has "
    "positions for: take larger patches, smaller images, or positions of "
    "another size or kind"
  )


def test_one_side_that_does_not_tile_is_enough():
  check_tiling((24, 48), (6, 16))
  with pytest.raises(ValueError, match=r"24x48 pixels.*16x6 patches"):
    check_tiling((24, 48), (16, 6))


def test_common_divisors():
  assert common_divisors((24, 24)) == [1, 2, 3, 4, 6, 8, 12, 24]
  assert common_divisors((16, 24)) == [1, 2, 4, 8]
  assert common_divisors((7, 9)) == [1]
  assert common_divisors((16, 24), 4) == [4, 8]
  assert common_divisors((18, 18), 4) == []


def test_of_a_stem_only_whole_cells_are_offered():
  stem = early_convolutions.EarlyConvolutions((8, 8))
  model = vit.ViT(
    sizes_lib.SIZES["mu"], waves.SinCos2D(), pooling.Gap(), stem=stem
  )
  refusal = "sides that divide both"
  for side, offered in ((24, "4, 8, 12, 24"), (18, "none")):
    with pytest.raises(ValueError) as caught:
      check_patch_size(model, (side, side), (16, 16))
    assert refusal not in str(caught.value)
    assert str(caught.value).endswith(
      f"; multiples of the stem's 4 that divide both: {offered}"
    )


def test_blaming_names_the_place_of_a_value_error():
  with pytest.raises(ConfigError) as caught, config_errors_at("config.train"):
    raise ValueError("no directory x")
  assert str(caught.value) == "config.train: no directory x"
  assert isinstance(caught.value.__cause__, ValueError)


def test_blaming_leaves_a_config_error_as_it_is():
  error = ConfigError("config.model: already named")
  with pytest.raises(ConfigError) as caught, config_errors_at("config.train"):
    raise error
  assert caught.value is error


def test_blaming_lets_our_own_mistakes_through():
  with pytest.raises(KeyError), config_errors_at("config.train"):
    raise KeyError("a mistake of ours")
  with config_errors_at("config.train"):
    done = True
  assert done


def test_one_class_is_nothing_to_learn():
  with pytest.raises(ConfigError) as caught:
    experiment().for_classes(("cat",))
  assert str(caught.value) == (
    "config.train: the data has one class, 'cat': give at least two"
  )


def test_all_data_is_opened_in_one_mode():
  for mode in (preprocessing.ANTIALIAS, preprocessing.BvCompat()):
    run = experiment(preprocessing=mode)
    assert run.open(run.train).mode == run.open(run.test).mode == mode


def test_packed_images_are_prepared_in_one_way():
  packed = dict(
    train=Dataset(digits.Digits(), resolution=resolution.Native()),
    packing=rows.Packing(row_length=64, max_images=8),
  )
  experiment(**packed)
  with pytest.raises(ValueError) as caught:
    experiment(**packed, preprocessing=preprocessing.BvCompat())
  assert str(caught.value) == (
    'preprocessing is "bv_compat", which is for images of one size: leave '
    'packing and the resolutions out, or take "antialias"'
  )
