"""The mode of the data that a command line names."""

import types

import pytest

from flexivit_jax.cli import data_arguments
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.data.pixels import preprocessing
from flexivit_jax.data.sources import digits

COMPAT = preprocessing.BvCompat()


def choose(asked, run_mode=None, **options):
  args = types.SimpleNamespace(preprocessing=asked)
  run = run_mode and types.SimpleNamespace(preprocessing=run_mode)
  return data_arguments.choose_mode(args, run, **options)


def test_what_is_asked_for_comes_first_and_the_runs_own_second():
  assert choose(None) == preprocessing.ANTIALIAS
  assert choose(None, COMPAT) == COMPAT
  assert choose("antialias", COMPAT) == preprocessing.ANTIALIAS
  assert choose("bv_compat") == COMPAT
  assert choose("bv_compat", preprocessing.ANTIALIAS) == COMPAT


def test_packed_images_are_antialiased():
  assert choose(None, COMPAT, packed=True) == preprocessing.ANTIALIAS
  assert choose("antialias", COMPAT, packed=True) == preprocessing.ANTIALIAS
  with pytest.raises(ConfigError) as caught:
    choose("bv_compat", packed=True)
  assert str(caught.value) == (
    "--preprocessing bv_compat is for images of one size: give an image size "
    "instead of a budget, or --preprocessing antialias"
  )


def test_an_unusual_mode_is_told():
  source = digits.Digits("test", 9)
  assert data_arguments.describe(source, preprocessing.ANTIALIAS) == repr(
    source
  )
  assert data_arguments.describe(source, COMPAT) == f"{source!r} by BvCompat()"
