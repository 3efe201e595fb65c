"""One pass over the data, every patch size on each batch."""

import numpy as np
import pytest

from flexivit_jax.core.means import Mean
from flexivit_jax.core.tokens import Batch
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


BATCHES = ([0, 1, 2, 3], [4, -1, -1, -1])


def test_points_are_means_over_images():
  measures = {(4, 4): Measure(1.0), (8, 6): Measure(10.0)}
  points = sweep.sweep(measures, {}, map(batch, BATCHES))
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
  loaded = []

  def batches():
    for index in BATCHES:
      loaded.append(index)
      # Sizes of earlier batches have been measured when the next is loaded.
      assert {len(m.seen) for m in measures.values()} == {len(loaded) - 1}
      yield batch(index)

  params = object()
  sweep.sweep(measures, params, batches())
  assert len(loaded) == len(BATCHES)
  for measure in measures.values():
    assert measure.seen == [(params, tuple(index)) for index in BATCHES]


def test_images_per_second_count_measuring_alone(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(sweep.time, "perf_counter", lambda: now[0])

  def timed(seconds):
    measure = Measure(1.0)

    def call(params, batch):
      now[0] += seconds
      return measure(params, batch)

    return call

  def batches():
    for index in BATCHES:
      now[0] += 100.0  # loading
      yield batch(index)

  measures = {(4, 4): timed(2.0), (8, 8): timed(0.5)}
  points = sweep.sweep(measures, {}, batches())
  # Eight rows, padding among them, in two calls.
  assert [p.images_per_s for p in points] == [8 / 4.0, 8 / 1.0]


def test_no_data():
  with pytest.raises(ValueError) as caught:
    sweep.sweep({(4, 4): Measure(1.0)}, {}, [])
  assert str(caught.value) == "there is no image to evaluate on"


def test_names_of_sizes():
  assert sweep.size_name((8, 8)) == "8"
  assert sweep.size_name((8, 6)) == "8x6"
