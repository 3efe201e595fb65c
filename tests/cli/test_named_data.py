"""The mode of the data that a command line names."""

import types

import pytest

from flexivit_jax.cli import named_data
from flexivit_jax.data import modes, sources
from flexivit_jax.experiment import ConfigError

COMPAT = modes.BvCompat()


def choose(asked, run_mode=None, **options):
  args = types.SimpleNamespace(preprocessing=asked)
  run = run_mode and types.SimpleNamespace(preprocessing=run_mode)
  return named_data.choose_mode(args, run, **options)


def test_what_is_asked_for_comes_first_and_the_runs_own_second():
  assert choose(None) == modes.ANTIALIAS
  assert choose(None, COMPAT) == COMPAT
  assert choose("antialias", COMPAT) == modes.ANTIALIAS
  assert choose("bv_compat") == COMPAT
  assert choose("bv_compat", modes.ANTIALIAS) == COMPAT


def test_packed_images_are_antialiased():
  assert choose(None, COMPAT, packed=True) == modes.ANTIALIAS
  assert choose("antialias", COMPAT, packed=True) == modes.ANTIALIAS
  with pytest.raises(ConfigError) as caught:
    choose("bv_compat", packed=True)
  assert str(caught.value) == (
    "--preprocessing bv_compat is for images of one size: give an image size "
    "instead of a budget, or --preprocessing antialias"
  )


def test_an_unusual_mode_is_told():
  source = sources.Digits("test", 9)
  assert named_data.describe(source, modes.ANTIALIAS) == repr(source)
  assert named_data.describe(source, COMPAT) == f"{source!r} by BvCompat()"
