"""One pass over the data, every patch size on each batch."""

import dataclasses

import numpy as np
import pytest

from flexivit_jax.core.means import Mean
from flexivit_jax.core.tokens import Batch, Tokens
from flexivit_jax.evaluation import sweep


def batch(index, image_hw=(24, 48)):
  """Rows of weight 1, but for index -1."""
  index = np.array(index, np.int32)[:, None]
  return Batch(
    inputs=np.zeros((len(index), *image_hw, 3), np.uint8),
    labels=np.zeros_like(index),
    weights=(index >= 0).astype(np.float32),
    index=index,
  )


class Loader:
  """Batches, and what happens when one is loaded."""

  def __init__(self, batches, loading=lambda: None):
    self.batches = batches
    self.loading = loading

  def __iter__(self):
    for each in self.batches:
      self.loading()
      yield each

  def example(self):
    return self.batches[0]


def run(measures, loader, params=None):
  """Sizes to measures, on one pass."""
  return sweep.sweep(
    {(size, None): measure for size, measure in measures.items()},
    params,
    [sweep.Pass(loader, tuple(measures))],
    lambda batch: batch,
  )


class Measure:
  """Loss `scale` times the index, right where the index is even."""

  def __init__(self, scale):
    self.scale = scale
    self.seen = []

  def __call__(self, params, batch):
    self.seen.append((params, tuple(batch.index[:, 0].tolist())))
    even = (batch.index % 2 == 0).astype(np.float32)
    # What padding makes must not count.
    loss = np.where(batch.index < 0, np.nan, self.scale * batch.index)
    return {
      "loss": Mean.of(loss.astype(np.float32), batch.weights),
      "accuracy": Mean.of(even, batch.weights),
    }


INDICES = ([0, 1, 2, 3], [4, -1, -1, -1])
BATCHES = [batch(index) for index in INDICES]


def test_points_are_means_over_images():
  measures = {(4, 4): Measure(1.0), (8, 6): Measure(10.0)}
  points = run(measures, Loader(BATCHES))
  assert [p.patch_hw for p in points] == [(4, 4), (8, 6)]
  assert [p.tokens for p in points] == [6 * 12, 3 * 8]
  # Indices 0 to 4: mean 2, three of five even. A mean of the batches' means
  # would be 2.75 and 3/4. Whole numbers: exact but for a division.
  np.testing.assert_allclose([p.loss for p in points], [2, 20], rtol=1e-6)
  np.testing.assert_allclose([p.top1 for p in points], [0.6, 0.6], rtol=1e-6)
  assert [p.images for p in points] == [5, 5]
  assert [p.name for p in points] == ["4", "8x6"]


def test_each_batch_is_loaded_once_and_given_to_each_size():
  measures = {(p, p): Measure(1.0) for p in (4, 6, 8)}
  measured = []

  def loading():
    # Sizes of earlier batches have been measured when the next is loaded.
    (count,) = {len(m.seen) for m in measures.values()}
    measured.append(count)

  params = object()
  run(measures, Loader(BATCHES, loading), params)
  assert measured == [0, 1]
  for measure in measures.values():
    assert measure.seen == [(params, tuple(index)) for index in INDICES]


def test_images_per_second_count_measuring_alone(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(sweep.time, "perf_counter", lambda: now[0])

  def timed(seconds):
    measure = Measure(1.0)

    def call(params, batch):
      now[0] += seconds
      return measure(params, batch)

    return call

  def loading():
    now[0] += 100.0

  measures = {(4, 4): timed(2.0), (8, 8): timed(0.5)}
  points = run(measures, Loader(BATCHES, loading))
  # Eight rows, padding among them, in two calls.
  assert [p.images_per_s for p in points] == [8 / 4.0, 8 / 1.0]


def test_no_data():
  with pytest.raises(ValueError) as caught:
    run({(4, 4): Measure(1.0)}, Loader([]))
  assert str(caught.value) == "there is no image to evaluate on"


def packed(index, lengths):
  """One row of images of so many tokens; two places of padding."""
  segments = np.repeat(np.arange(1, len(lengths) + 1), lengths)
  segments = np.concatenate([segments, [0, 0]]).astype(np.int32)[None]
  cells = np.ones((1, segments.size, 2), np.int32)
  index = np.array([index], np.int32)
  return Batch(
    inputs=Tokens(
      np.zeros((1, segments.size, 48), np.uint8),
      cells - 1,
      cells,
      segments,
      patch_sizes=((4, 4),),
      num_images=index.size,
    ),
    labels=np.zeros_like(index),
    weights=(index >= 0).astype(np.float32),
    index=index,
  )


def test_packed_images_of_several_budgets():
  loaders = {
    16: Loader([packed([0, 1], [3, 5]), packed([2, -1], [4])]),
    64: Loader([packed([0, 1], [9, 6]), packed([2, -1], [30])]),
  }
  passes = [sweep.Pass(x, ((4, 4),), budget) for budget, x in loaders.items()]
  measures = {
    ((4, 4), budget): PackedMeasure(float(budget)) for budget in loaders
  }
  points = sweep.sweep(measures, None, passes, lambda batch: batch)
  assert [p.name for p in points] == ["4:16", "4:64"]
  assert [p.images for p in points] == [3, 3]
  # 12 and 45 patches of three images: padding is none.
  assert [p.tokens for p in points] == [4, 15]
  # Images 0, 1 and 2: mean 1, two of three even.
  np.testing.assert_allclose([p.loss for p in points], [16, 64], rtol=1e-6)
  np.testing.assert_allclose([p.top1 for p in points], [2 / 3] * 2, rtol=1e-6)


class PackedMeasure(Measure):
  """As `Measure`, remembering nothing of the rows."""

  def __call__(self, params, batch):
    flat = batch.index.reshape(-1, 1), batch.weights.reshape(-1, 1)
    batch = dataclasses.replace(batch, index=flat[0], weights=flat[1])
    return super().__call__(params, batch)


def test_names_of_sizes():
  assert sweep.size_name((8, 8)) == "8"
  assert sweep.size_name((8, 6)) == "8x6"
  assert sweep.point_name(((8, 6), 64)) == "8x6:64"
