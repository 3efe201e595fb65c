"""Losses by targets, against sums written out."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.core.tokens import Batch
from flexivit_jax.tasks import losses
from flexivit_jax.tasks.losses import SigmoidLoss, SoftmaxLoss

LOGITS = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32) * 3
LABELS = np.array([[0, 3], [2, 2], [1, 0]], np.int32)


def of_class(c):
  """-log of the softmax, in float64."""
  shifted = LOGITS - LOGITS.max(-1, keepdims=True)
  return np.log(np.exp(shifted).sum(-1)) - shifted[..., c]


def given(labels, targets=None):
  return Batch(None, jnp.asarray(labels), None, None, targets)


def test_softmax_is_the_log_probability_of_the_label():
  found = SoftmaxLoss()(LOGITS, losses.targets(given(LABELS), 4))
  wanted = np.stack([of_class(c) for c in range(4)], -1)
  wanted = np.take_along_axis(wanted, LABELS[..., None], -1)[..., 0]
  # Of float32: the numbers are up to 10.
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_smoothing_gives_every_class_its_share():
  found = SoftmaxLoss(0.2)(LOGITS, losses.targets(given(LABELS), 4))
  every = np.stack([of_class(c) for c in range(4)], -1)
  own = np.take_along_axis(every, LABELS[..., None], -1)[..., 0]
  wanted = 0.8 * own + 0.2 * every.mean(-1)
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_sigmoid_asks_of_each_class_by_itself():
  labels = np.array([[[0, 2, -1], [3, 3, -1]]] * 3, np.int32)
  targets = losses.targets(given(labels), 4)
  np.testing.assert_array_equal(targets[0], [[1, 0, 1, 0], [0, 0, 0, 1]])
  p = 1 / (1 + np.exp(-LOGITS))
  wanted = -np.where(np.asarray(targets) > 0, np.log(p), np.log(1 - p))
  found = SigmoidLoss()(LOGITS, targets)
  np.testing.assert_allclose(found, wanted.sum(-1), rtol=1e-5)
  # With smoothing the targets are 0.95 and 0.05.
  smooth = np.where(np.asarray(targets) > 0, 0.95, 0.05)
  wanted = -(smooth * np.log(p) + (1 - smooth) * np.log(1 - p)).sum(-1)
  np.testing.assert_allclose(
    SigmoidLoss(0.1)(LOGITS, targets), wanted, rtol=1e-5
  )


def test_several_labels_share_a_softmax():
  both = np.array([[[1, 3]] * 2] * 3, np.int32)
  found = SoftmaxLoss()(LOGITS, losses.targets(given(both), 4))
  wanted = (of_class(1) + of_class(3)) / 2
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_right_is_what_no_other_class_has_more_of():
  targets = np.array([[[0.7, 0.3, 0]], [[1, 0, 1]], [[0, 0, 0]]], np.float32)
  for predicted, wanted in ((0, (1, 1, 0)), (1, (0, 0, 0)), (2, (0, 1, 0))):
    classes = np.full((3, 1), predicted, np.int32)
    found = losses.is_right(classes, targets)
    np.testing.assert_array_equal(np.ravel(found), wanted)


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: SoftmaxLoss(1.0), "label_smoothing is 1.0: give a number at"),
    (lambda: SigmoidLoss(-0.1), "label_smoothing is -0.1: give a number at"),
  ],
)
def test_refusals(make, text):
  with pytest.raises(ValueError, match=re.escape(text)):
    make()
