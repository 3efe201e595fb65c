"""Data, views and patch sizes from arguments."""

import types

import numpy as np
import pytest

from flexivit_jax.cli import views
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.data.dataset import Dataset
from flexivit_jax.data.loading import bad_images
from flexivit_jax.data.pixels import transforms
from flexivit_jax.data.sources import digits, image_folder, tfds
from flexivit_jax.evaluation.settings import Setting
from tests import tiny


def given(**changes):
  """Arguments of evaluate.py."""
  names = "data split resolutions resize_first budgets data_dir patch_sizes"
  fields = dict.fromkeys(names.split()) | {"checkpoint": "a.npz"}
  return types.SimpleNamespace(**fields | changes)


def model(trained=()):
  spec = types.SimpleNamespace(
    path="a.npz", trained_sizes=trained, patch_size=None, experiment=None
  )
  return types.SimpleNamespace(model=tiny.tiny(num_classes=10), spec=spec)


def read(args, data, trained=()):
  source = data.source.open()
  return views.choose_reading(
    args, model(trained), data, source, 4, bad_images.ERROR
  )


def test_data_of_tfds():
  args = given(
    data="tfds:my_set/small:1.2.0",
    split="validation",
    resolutions="24",
    data_dir="/data",
  )
  source = views.choose_data(args, None).source
  assert source == tfds.Tfds("my_set/small:1.2.0", "validation", "/data")
  args.split = args.data_dir = None
  source = views.choose_data(args, None).source
  assert source == tfds.Tfds("my_set/small:1.2.0", "test")


def test_files_of_any_size_become_what_a_run_evaluates(
  small_experiment, capsys
):
  run = small_experiment(
    "test.transforms=({'name':'resize','size':(28,28)},"
    "{'name':'central_crop','size':(24,24)})"
  )
  found = views.choose_data(given(data="folder:/photos"), run)
  assert found == Dataset(
    image_folder.ImageFolder("/photos", "test"), run.test.transforms
  )
  assert capsys.readouterr().out == (
    "Resize(size=(28, 28)), CentralCrop(size=(24, 24)) (as the run's test "
    "data)\n"
  )
  # What the arguments ask for is not changed, nor data that have a size.
  sized = given(data="folder:/photos", resolutions="24")
  assert views.choose_data(sized, run).transforms == ()
  assert views.choose_data(given(data="digits"), run).transforms == ()


@pytest.mark.parametrize(
  "test",
  [
    "test.transforms=()",
    "test.transforms=({'name':'central_crop','size':(24,24)},)",
  ],
)
def test_files_of_any_size_need_one_where_no_run_gives_it(
  test, small_experiment
):
  text = "^--data folder:PATH needs --resolutions, 240 say, or --budgets$"
  with pytest.raises(ConfigError, match=text):
    views.choose_data(given(data="folder:/photos"), small_experiment(test))


def test_digits_are_drawn_as_large_as_the_largest_view():
  args = given(data="digits", resolutions="24x32", resize_first="40x36")
  data = views.choose_data(args, None)
  assert data == Dataset(digits.Digits("test", 40))
  args = given(data="digits", resolutions="24x32,64,64")
  assert views.choose_data(args, None) == Dataset(digits.Digits("test", 64))
  assert views.choose_data(given(data="digits"), None) == Dataset(
    digits.Digits("test")
  )


def test_the_centre_of_larger_images():
  args = given(
    data="digits", resolutions="24x32", resize_first="40x36", patch_sizes="8"
  )
  reading = read(args, views.choose_data(args, None))
  assert reading.views == ((Setting((8, 8), (24, 32)),),)
  assert reading.shown == (
    repr((transforms.Resize((40, 36)), transforms.CentralCrop((24, 32)))),
  )
  (_, batch), *_ = reading.loader
  image = digits.Digits("test", 40).open().image(0)
  image = transforms.CentralCrop((24, 32))(
    transforms.Resize((40, 36))(image, None), 0
  )
  np.testing.assert_array_equal(batch.inputs[0], image)


def test_a_view_for_each_resolution_with_the_sizes_that_tile_it(capsys):
  args = given(data="digits", resolutions="24,32,24x48", patch_sizes="8,6")
  reading = read(args, views.choose_data(args, None))
  assert reading.views == (
    (Setting((8, 8), (24, 24)), Setting((6, 6), (24, 24))),
    (Setting((8, 8), (32, 32)),),
    (Setting((8, 8), (24, 48)), Setting((6, 6), (24, 48))),
  )
  assert capsys.readouterr().out == (
    "without 6 px at 32: they do not tile it\n"
  )


def test_other_transforms_than_those_of_size_stay(capsys):
  class Darker:
    def __call__(self, image, rng):
      return image // 2

    def __repr__(self):
      return "Darker()"

  data = Dataset(
    digits.Digits("test", 24), (transforms.Resize((12, 12)), Darker())
  )
  args = given(resolutions="48", patch_sizes="8")
  reading = read(args, data)
  assert reading.shown == ("(Darker(), Resize(size=(48, 48)))",)
  assert capsys.readouterr().out == (
    "without Resize(size=(12, 12)): --resolutions asks for others\n"
  )
  args = given(budgets="9,16", patch_sizes="8,4")
  reading = read(args, data)
  assert [s for (s,) in reading.views] == [
    Setting((p, p), budget=n) for n in (9, 16) for p in (8, 4)
  ]
  assert capsys.readouterr().out == (
    "without Resize(size=(12, 12)): with --budgets images keep their aspect "
    "ratio\n"
  )


@pytest.mark.parametrize(
  ("text", "trained", "image_hw", "sizes"),
  [
    (None, ((8, 8), (4, 6)), None, [(8, 8), (4, 6)]),
    ("4:8", ((8, 8), (4, 6), (2, 2)), None, [(8, 8), (4, 6)]),
    ("4:8", (), (24, 48), [(4, 4), (6, 6), (8, 8)]),
    ("8,6x4,8", (), None, [(8, 8), (6, 4)]),
  ],
)
def test_patch_sizes(text, trained, image_hw, sizes):
  assert views.choose_sizes(text, model(trained), image_hw) == sizes


def test_sizes_that_tile_no_view():
  args = given(data="digits", resolutions="24,32", patch_sizes="6,12")
  text = "^--patch_sizes: none of 6, 12 tiles .* 32x32 pixels; 1, 2, 4, 8, 16"
  with pytest.raises(ConfigError, match=text):
    read(args, views.choose_data(args, None))
