"""Ranks, confidence and calibration."""

import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.tasks.predictions import Answers, answer, gather


def answered(logits, labels):
  """Of one row of images."""
  logits = jnp.asarray(logits, jnp.float32)[None]
  labels = jnp.asarray(labels, jnp.int32)[None]
  odds = jnp.exp(logits)
  return answer(
    logits,
    odds / odds.sum(axis=-1, keepdims=True),
    jnp.zeros(labels.shape),
    labels,
    jnp.arange(labels.size, dtype=jnp.int32)[None],
  )


def test_ranks_are_those_of_a_stable_sort():
  rng = np.random.default_rng(0)
  # Few values, so that many are equal.
  logits = rng.integers(0, 4, (200, 7)).astype(np.float32)
  labels = rng.integers(0, 7, 200)
  got = answered(logits, labels)
  order = np.argsort(-logits, axis=-1, kind="stable")
  expected = [list(row).index(y) for row, y in zip(order, labels, strict=True)]
  assert got.rank[0].tolist() == expected
  assert ((got.rank == 0) == (got.predicted == got.label)).all()
  assert got.predicted[0].tolist() == order[:, 0].tolist()


def test_what_is_not_a_number_is_never_right():
  nan = [[np.nan] * 6, [0, np.nan, 0, 0, 0, 0], [np.nan, 9, 0, 0, 0, 0]]
  got = answered(nan, [0, 1, 1])
  # In the last only the label's logit is a number above others.
  assert (np.asarray(got.rank[0]) >= [5, 5, 1]).all()
  assert gather([got]).top(1) == 0


def test_of_several_labels_the_one_that_comes_first_counts():
  rng = np.random.default_rng(1)
  logits = rng.normal(size=(50, 7)).astype(np.float32)
  labels = np.sort(rng.integers(-1, 7, (50, 3)), axis=1)[:, ::-1]
  labels[:2] = -1  # two images without a label
  got = answer(
    jnp.asarray(logits)[None],
    jnp.full((1, 50, 7), 1 / 7),
    jnp.zeros((1, 50)),
    jnp.asarray(labels, jnp.int32)[None],
    jnp.arange(50, dtype=jnp.int32)[None],
  )
  order = np.argsort(-logits, axis=-1).tolist()
  for image in range(2, 50):
    own = [x for x in labels[image].tolist() if x >= 0]
    if not own:
      continue
    first = min(own, key=order[image].index)
    assert got.label[0, image] == first
    assert got.rank[0, image] == order[image].index(first)
  assert got.label[0, :2].tolist() == [-1, -1]
  assert got.rank[0, :2].tolist() == [7, 7]
  assert gather([got]).top(7) == 0.96


def some(index, rank=None, confidence=None, loss=None):
  n = len(index)
  zeros = np.zeros(n, np.int32)
  return Answers(
    index=np.asarray(index, np.int32),
    label=zeros,
    predicted=zeros,
    confidence=np.asarray(
      np.ones(n) if confidence is None else confidence, np.float32
    ),
    loss=np.asarray(np.zeros(n) if loss is None else loss, np.float32),
    rank=zeros if rank is None else np.asarray(rank, np.int32),
  )


def test_gathered_are_the_real_ones_by_index():
  parts = [
    some([5, -1, 0], loss=[5, np.nan, 0]),
    some([-1, 3], loss=[np.nan, 3]),
  ]
  got = gather(parts)
  assert got.index.tolist() == got.loss.tolist() == [0, 3, 5]
  assert got.mean_loss == 8 / 3


@pytest.mark.parametrize("parts", [[], [some([-1, -1])]])
def test_nothing_gathered(parts):
  with pytest.raises(ValueError, match="there is no image to evaluate on"):
    gather(parts)


def test_calibration_by_hand():
  # Two bins: 0.9 and 0.92 (one of two right), 0.3 and 0.3 (both right).
  got = some(range(4), rank=[0, 1, 0, 0], confidence=[0.9, 0.92, 0.3, 0.3])
  expected = (abs(1 - 0.9 + 0 - 0.92) + 2 * 0.7) / 4
  # Confidences are float32.
  np.testing.assert_allclose(got.calibration_error, expected, rtol=1e-6)
