"""Pooled features of batches, as the library gives them for images."""

import functools

import jax
import numpy as np
import pytest

from flexivit_jax.checkpoints.model import LoadedModel
from flexivit_jax.checkpoints.origin import Spec
from flexivit_jax.core.tokens import Batch
from flexivit_jax.evaluation.linear_probe import features
from tests import tiny

MODEL = tiny.tiny(representation=True)


def test_features_are_what_the_head_reads():
  """With the weights of a model that has a head, and of one that has not."""
  images, params = tiny.images(3), tiny.parameters(MODEL)
  expected = LoadedModel(MODEL, params, Spec("test", "test")).features(
    images, 6
  )
  index = np.array([[4], [2], [-1]], np.int32)
  batch = Batch(images, index % 3, (index >= 0).astype(np.float32), index)
  without = {name: x for name, x in params.items() if name != "head"}
  headless = functools.partial(
    features.forward, MODEL.clone(num_classes=0), patch_hw=(6, 6)
  )
  for given in (params, without):
    made = jax.jit(headless)(given, batch)
    assert made.pooled.shape == (3, 1, 32)
    assert made.pooled.dtype == np.float32
    found = features.gather([made])
    assert found.index.tolist() == [2, 4]
    assert found.label.tolist() == [2, 1]
    # Float32 rounding of values below 1, should the programs differ: here
    # worst 0. The other image's features are 0.2 away.
    np.testing.assert_allclose(
      found.pooled, expected[np.array([1, 0])], rtol=0, atol=5e-6
    )


def test_batches_are_gathered_by_index():
  """Of packed rows too, whose slots may be empty."""

  def part(index):
    index = np.array(index, np.int32)
    pooled = np.stack([index, 10 * index], axis=-1).astype(np.float32)
    return features.Features(index, index % 2, pooled)

  found = features.gather([part([[5, 0, -1], [3, -1, -1]]), part([[1, 2, 4]])])
  assert len(found) == 6
  assert found.index.tolist() == [0, 1, 2, 3, 4, 5]
  assert found.label.tolist() == [0, 1, 0, 1, 0, 1]
  assert found.pooled.tolist() == [[i, 10 * i] for i in range(6)]
  with pytest.raises(ValueError, match="there is no image to evaluate on"):
    features.gather([part([[-1, -1]])])
