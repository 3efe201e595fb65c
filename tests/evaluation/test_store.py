"""Points that survive the process that made them."""

import re

import numpy as np
import pytest
from invented_sweeps import assert_same, ranked

from flexivit_jax.evaluation.settings import Cost, Point, Setting
from flexivit_jax.evaluation.store import Store

SETTINGS = [
  Setting((16, 16), (240, 240)),
  Setting((8, 6), (24, 48)),
  Setting((16, 16), budget=256),
  Setting((16, 16)),
]


def made(setting, latency=(0.001, 0.002)):
  cost = Cost(1e9, 2**30, 3.5, latency, 100.0)
  point = Point(setting, 225.0, 3, 0.5, 0.75, 1.25, 0.125, cost)
  return point, ranked([0, 1, 2], loss=np.arange(3) / 7)


def key(setting):
  return {"data": "digits", "sizes": (1, 2)}


@pytest.mark.parametrize(
  ("setting", "latency"), list(zip(SETTINGS, (None, (0.1, 0.2)) * 2)), ids=str
)
def test_what_was_saved_is_loaded(setting, latency, tmp_path):
  store = Store(tmp_path / "points", key)
  assert store.load(setting) is None
  point, answers = made(setting, latency)
  store.save(point, answers)
  loaded, again = store.load(setting)
  assert loaded == point
  assert_same(again, answers)
  (path,) = (tmp_path / "points").iterdir()
  assert re.fullmatch(rf"{setting.name}-[0-9a-f]{{8}}\.npz", path.name)


def test_settings_have_files_of_their_own(tmp_path):
  store = Store(tmp_path, key)
  for setting in SETTINGS:
    store.save(*made(setting))
  assert [store.load(s)[0].setting for s in SETTINGS] == SETTINGS


def test_another_key_finds_nothing(tmp_path):
  setting = SETTINGS[0]
  Store(tmp_path, key).save(*made(setting))
  other = Store(tmp_path, lambda s: key(s) | {"data": "other"})
  assert other.load(setting) is None
  other.save(*made(setting))
  # Both stay, whichever is asked for.
  assert other.load(setting) is not None
  assert Store(tmp_path, key).load(setting) is not None


def test_a_file_that_is_not_whole_is_as_none(tmp_path):
  setting = SETTINGS[0]
  store = Store(tmp_path, key)
  store.save(*made(setting))
  (path,) = tmp_path.iterdir()
  whole = path.read_bytes()
  for size in (0, 1, len(whole) // 2, len(whole) - 1):
    path.write_bytes(whole[:size])
    assert store.load(setting) is None
  path.write_bytes(b"not an archive")
  assert store.load(setting) is None
  path.write_bytes(whole)
  assert store.load(setting) is not None
