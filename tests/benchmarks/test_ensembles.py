"""Ensembles over patch sizes, against probabilities added up by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.ensembles import ensembles
from flexivit_jax.core.tokens import Batch

SIZES = ((12, 12), (8, 8), (4, 4))
PROBABILITIES = np.array(
  [
    # Of three images, by size.
    [[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.2, 0.2, 0.6]],
    [[0.1, 0.8, 0.1], [0.01, 0.6, 0.39], [0.1, 0.7, 0.2]],
    [[0.3, 0.3, 0.4], [0.9, 0.08, 0.02], [0.3, 0.25, 0.45]],
  ],
  np.float32,
)
LABELS = np.array([[1], [0], [2]], np.int32)
BATCH = Batch(
  inputs=np.zeros((3, 24, 24, 3), np.uint8),
  labels=LABELS,
  weights=np.ones((3, 1), np.float32),
  index=np.array([[4], [9], [-1]], np.int32),
)


def predict(params, batch, *, patch_hw):
  """Logits: any shift of the log-probabilities."""
  del batch
  logs = jnp.log(PROBABILITIES[SIZES.index(patch_hw)])
  return (logs + params)[:, None]


@pytest.mark.parametrize("of_logs", [False, True])
def test_the_first_sizes_together(of_logs):
  shift = np.float32(3.0)
  found = jax.jit(ensembles(predict, SIZES, of_logs=of_logs))(shift, BATCH)
  assert len(found) == 3
  for count, answers in enumerate(found, start=1):
    first = PROBABILITIES[:count].astype(np.float64)
    if of_logs:
      mean = np.exp(np.log(first).mean(axis=0))
      mean /= mean.sum(axis=-1, keepdims=True)
    else:
      mean = first.mean(axis=0)
    own = np.take_along_axis(mean, LABELS, axis=-1)
    assert answers.index.tolist() == BATCH.index.tolist()
    assert answers.predicted[:, 0].tolist() == mean.argmax(axis=-1).tolist()
    # Float32 of numbers of order 1.
    tolerance = {"rtol": 0, "atol": 2e-6}
    confidence = mean.max(axis=-1, keepdims=True)
    np.testing.assert_allclose(answers.confidence, confidence, **tolerance)
    np.testing.assert_allclose(answers.loss, -np.log(own), **tolerance)
    np.testing.assert_array_equal(answers.rank, (mean > own).sum(1)[:, None])
