"""Which images a checkpoint is for, as far as it says."""

import dataclasses
import pathlib
import types

import pytest

from flexivit_jax.checkpoints.model import LoadedModel
from flexivit_jax.checkpoints.origin import Spec
from flexivit_jax.core.resolution import NaFlex, Sampled
from flexivit_jax.data.dataset import Dataset
from flexivit_jax.data.pixels import transforms as transforms_lib
from flexivit_jax.data.sources import digits, image_folder
from flexivit_jax.evaluation import eval_transforms
from flexivit_jax.evaluation.eval_transforms import Preprocessing
from flexivit_jax.nn.positions import learned_grid, waves
from tests import tiny

FOLDER = image_folder.ImageFolder("/data")
DIGITS = digits.Digits("test", 28)
RESIZE = transforms_lib.Resize((24, 24))
CENTRE = transforms_lib.CentralCrop((20, 16))
PADDED = transforms_lib.PadSquare()


def _of(experiment, **spec):
  position = spec.pop("position", learned_grid.LearnedGrid((7, 5)))
  model = tiny.tiny(position=position, kernel_hw=(8, 6))
  spec = Spec("made up", "x", experiment=experiment, **spec)
  return LoadedModel(model, {}, spec)


def _usual(small_experiment, **data):
  """Of a run that has these data only."""
  none = {"train": None, "validation": None, "test": None}
  # No Experiment: that checks what does not matter here.
  fields = vars(small_experiment()) | none | data
  return eval_transforms.usual(_of(types.SimpleNamespace(**fields)), "x")


WHOLE, SIZE = "as the run's test data", "the size of the run's test data"


def _resize(*size):
  return (transforms_lib.Resize(size),)


@pytest.mark.parametrize(
  ("data", "expected"),
  [
    (Dataset(FOLDER, (RESIZE,)), ((RESIZE,), None, WHOLE)),
    (
      Dataset(FOLDER, (PADDED, RESIZE, CENTRE)),
      ((PADDED, RESIZE, CENTRE), None, WHOLE),
    ),
    (Dataset(DIGITS), (_resize(28, 28), None, SIZE)),
    # An image of a user's may be smaller than the centre.
    (Dataset(FOLDER, (CENTRE, RESIZE)), (_resize(20, 16), None, SIZE)),
    (Dataset(FOLDER, (PADDED,), NaFlex(9)), ((PADDED,), NaFlex(9), WHOLE)),
    # Nobody says: its files have one size already.
    (Dataset(FOLDER), None),
    (Dataset(FOLDER, (PADDED,)), None),
    (Dataset(FOLDER, (CENTRE,), NaFlex(9)), None),
  ],
)
def test_a_run_prepares_images_as_it_evaluates(
  small_experiment, data, expected
):
  found = _usual(small_experiment, test=data, validation=Dataset(DIGITS))
  assert found == (expected and Preprocessing(*expected))


def test_the_test_data_come_before_validation_and_training(small_experiment):
  sides = {"train": 12, "validation": 16, "test": 20}
  data = {k: Dataset(digits.Digits("test", side)) for k, side in sides.items()}
  for name in ("test", "validation", "train"):
    (resize,) = _usual(small_experiment, **data).transforms
    assert resize.size == (sides[name],) * 2
    del data[name]


def test_of_training_data_what_is_random_is_left_out(small_experiment):
  crop = transforms_lib.InceptionCrop((32, 48))
  for transforms, expected in (
    ((RESIZE, transforms_lib.Flip()), (RESIZE,)),
    ((*_resize(64, 64), crop), _resize(32, 48)),
    ((crop, transforms_lib.Flip()), _resize(32, 48)),
  ):
    found = _usual(small_experiment, train=Dataset(FOLDER, transforms))
    assert found.transforms == expected
  packed = Dataset(FOLDER, (), Sampled(12, 32))
  assert _usual(small_experiment, train=packed) is None


def test_orientations_as_the_runs_data(small_experiment):
  experiment = small_experiment()
  assert not eval_transforms.turns_images(None)
  assert not eval_transforms.turns_images(experiment)
  for turn in (False, True):
    data = Dataset(dataclasses.replace(FOLDER, exif_transpose=turn))
    changed = dataclasses.replace(experiment, test=data)
    assert eval_transforms.turns_images(changed) is turn


def test_a_file_of_one_patch_size_that_is_stored_at_it():
  """Its positions are a grid of such patches."""
  here = str(pathlib.Path(__file__))
  found = eval_transforms.usual(_of(None, patch_size=(8, 6)), here)
  text = "the size that its positions are for"
  assert found == Preprocessing(_resize(56, 30), None, text)
  # As FlexiViT is, or a run of one patch size that stores another.
  assert eval_transforms.usual(_of(None), here) is None
  assert eval_transforms.usual(_of(None, patch_size=(8, 8)), here) is None
  # Any grid.
  fixed = _of(None, patch_size=(8, 6), position=waves.SinCos2D())
  assert eval_transforms.usual(fixed, here) is None


def test_published_ones_were_trained_at_a_known_size():
  found = eval_transforms.usual(_of(None), "flexivit_s_i1k")
  text = "published for that size"
  assert found == Preprocessing(_resize(240, 240), None, text)
  assert eval_transforms.usual(_of(None), "no_such_model") is None
