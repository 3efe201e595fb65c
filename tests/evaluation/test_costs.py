"""Costs counted, planned and timed."""

import functools
import types

import jax
import numpy as np
import pytest

from flexivit_jax.core.resolution import NaFlex
from flexivit_jax.data.loading import bad_images
from flexivit_jax.data.packing import rows as rows_lib
from flexivit_jax.data.pixels import transforms
from flexivit_jax.data.sources.digits import Digits
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.devices import placement
from flexivit_jax.evaluation import costs, open_reading, sweep
from flexivit_jax.evaluation.settings import Setting
from flexivit_jax.models import cost
from flexivit_jax.tasks.classification import Supervised
from tests import tiny

MODEL = tiny.tiny(num_classes=10)
OPTIONS = dict(shard=(0, 1), on_bad_image=bad_images.ERROR)


def grid():
  views = [(), (transforms.Resize((24, 48)),)]
  return open_reading.of_one_size(
    Digits("test[:20]", 24).open(),
    views,
    lambda hw: [(12, 12), (8, 8)] if hw == (24, 24) else [(12, 12)],
    batch_size=8,
    **OPTIONS,
  )


def packed():
  rows = rows_lib.Packing(32, max_images=4, open_rows=2)
  return open_reading.packed(
    Digits("test[:20]", 24).open(),
    (),
    [(NaFlex(9), rows), (NaFlex(40), rows)],
    [(4, 4), (8, 8)],
    model=MODEL,
    batch_size=8,
    **OPTIONS,
  )


def test_settings_of_readings():
  one = grid()
  assert one.views == (
    (Setting((12, 12), (24, 24)), Setting((8, 8), (24, 24))),
    (Setting((12, 12), (24, 48)),),
  )
  assert one.shown == ("()", "(Resize(size=(24, 48)),)")
  assert one.loader.example(1).inputs.shape == (8, 24, 48, 3)
  rows = packed()
  assert [s for (s,) in rows.views] == [
    Setting((p, p), budget=n) for n in (9, 40) for p in (4, 8)
  ]
  # A budget larger than a row gets rows of its own.
  lengths = [rows.loader.example(i).inputs.segments.shape[1] for i in range(4)]
  assert lengths == [32, 32, 40, 40]
  assert len(set(rows.shown)) == 4


@pytest.mark.parametrize("make", [grid, packed])
def test_readings_see_every_image_in_each_view(make):
  reading = make()
  seen = {view: [] for view in range(len(reading.views))}
  for view, batch in reading.loader:
    seen[view] += batch.index[batch.index >= 0].tolist()
  assert all(sorted(index) == list(range(20)) for index in seen.values())
  part = reading.only(lambda view, setting: view == 1)
  (settings,) = part.views
  assert settings == reading.views[1]
  assert part.shown == reading.shown[1:2]
  assert {view for view, _ in part.loader} == {0}
  assert len(part.loader) == len(reading.loader) == 20
  same = part.loader.example(0), reading.loader.example(1)
  shapes = [[x.shape for x in jax.tree.leaves(b)] for b in same]
  assert shapes[0] == shapes[1]


def test_multiply_adds_of_an_image():
  setting, found = Setting((12, 12), (24, 48)), sweep.Found(None, 9.0, 2.5)
  whole = cost.multiply_adds(MODEL, (24, 48), (12, 12))
  assert costs.count(MODEL, grid(), 1, setting, found) == whole
  reading = packed()
  row = cost.packed_multiply_adds(MODEL, 32, 4, [(8, 8)])
  (setting,) = reading.views[1]
  assert costs.count(MODEL, reading, 1, setting, found) == row / 2.5


@pytest.mark.parametrize(
  ("setting", "image_hw"),
  [
    (Setting((4, 4), (24, 48)), (24, 48)),
    (Setting((16, 16), budget=20), (64, 80)),
    (Setting((16, 8), budget=1), (16, 8)),
    (Setting((16, 16)), None),
  ],
)
def test_the_image_whose_latency_is_measured(setting, image_hw):
  assert costs.one_image_hw(setting, None) == image_hw


@pytest.mark.parametrize(
  "make", [grid, pytest.param(packed, marks=pytest.mark.slow)]
)
def test_all_is_compiled_before_anything_is_timed(make, monkeypatch):
  monkeypatch.setattr(costs, "LONG_ENOUGH", 0.0)
  reading, task, mesh = make(), Supervised(), mesh_lib.make_mesh()
  params = tiny.parameters(MODEL)
  params = jax.device_put(params, placement.replicated(mesh))
  traced, order = [], []

  def forward(*args, **kwargs):
    traced.append(kwargs)
    return sweep.forward(task, MODEL, *args, **kwargs)

  def at(setting):
    return forward, params

  programs = sweep.compile_programs(at, [reading], mesh, order.append)
  singles = costs.compile_for_one(at, reading.settings, None, order.append)
  settings = list(reading.settings)
  assert list(singles) == settings
  assert len(traced) == 2 * len(settings)
  calls = {s: functools.partial(p.call, params) for s, p in programs.items()}
  found = sweep.sweep(calls, [reading], lambda x: placement.to_devices(x, mesh))
  planned = costs.plan(MODEL, reading, programs, found)
  assert list(planned) == settings
  for setting, each in planned.items():
    assert each.latency_s is each.images_per_s is None
    assert each.compile_s == programs[setting].compile_s
    assert each.peak_bytes == programs[setting].peak_bytes
  # One image, right or wrong: the answer is of the image that was given.
  answer = singles[settings[0]]()
  assert answer.index.shape == (1, 1)
  done = {}
  given = planned, at, reading, programs, singles, found, mesh
  costs.measure_time(*given, done.__setitem__)
  assert len(traced) == 2 * len(settings)
  for setting, each in done.items():
    median, p95 = each.latency_s
    assert 0 < median <= p95
    assert each.images_per_s > 0
    assert each.multiply_adds == planned[setting].multiply_adds


class Clock:
  """Stands still but for the calls that are timed."""

  def __init__(self, *seconds):
    self.now, self.calls, self.seconds = 0.0, 0, seconds

  def __call__(self):
    return self.now

  def run(self):
    self.now += self.seconds[min(self.calls, len(self.seconds) - 1)]
    self.calls += 1
    return np.zeros(())


def test_calls_are_timed_until_a_second_has_passed(monkeypatch):
  for calls, found in (
    # The first warms up; the rest until a second has passed.
    ((100.0, 0.25), [0.25] * 4),
    ((9.0,), [9.0] * 3),
    ((0.0,), [0.0] * costs.MOST),
  ):
    clock = Clock(*calls)
    timer = types.SimpleNamespace(perf_counter=clock)
    monkeypatch.setattr(costs, "time", timer)
    assert costs.seconds_each(clock.run).tolist() == found


def test_every_call_is_waited_for(monkeypatch):
  monkeypatch.setattr(costs, "LONG_ENOUGH", 0.0)
  waited = []
  pending = types.SimpleNamespace(block_until_ready=lambda: waited.append(1))
  costs.seconds_each(lambda: pending, least=3)
  assert len(waited) == 4


def test_latency_and_throughput(monkeypatch):
  seconds = np.arange(1.0, 101.0)
  monkeypatch.setattr(costs, "seconds_each", lambda run, **_: seconds)
  assert costs.latency(None) == (50.5, 95.05)
  assert costs.per_second(None, 101) == 2.0
