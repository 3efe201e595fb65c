"""Counts by class, against counting by hand."""

import collections

import invented_sweeps
import numpy as np
import pytest

from flexivit_jax.evaluation.report import classes
from flexivit_jax.evaluation.report.classes import ClassCount, Confusion
from flexivit_jax.tasks.predictions import Answers


def answers(pairs):
  """Of (label, predicted)."""
  label, predicted = np.array(pairs, np.int32).T
  n = len(label)
  return Answers(
    index=np.arange(n),
    label=label,
    predicted=predicted,
    confidence=np.full(n, 0.5, np.float32),
    loss=np.ones(n, np.float32),
    rank=(label != predicted).astype(np.int32),
  )


FEW = answers([(0, 0), (0, 2), (0, 2), (0, 5), (3, 3), (3, 0), (3, 3)])


def test_per_class():
  assert classes.per_class(FEW) == (ClassCount(0, 4, 1), ClassCount(3, 3, 2))
  assert classes.per_class(FEW)[1].accuracy == pytest.approx(2 / 3)


def test_confusions_come_by_number_then_by_share():
  assert classes.confusions(FEW) == (
    Confusion(0, 2, 2, 0.5),
    Confusion(3, 0, 1, 1 / 3),
    Confusion(0, 5, 1, 0.25),
  )


def test_nothing_confused():
  assert classes.confusions(answers([(0, 0), (1, 1)])) == ()


def test_the_matrix_counts_classes_that_the_data_do_not_have_last():
  # Label 0 was taken for 5, of which the data of four classes know nothing.
  assert classes.confusion_matrix(FEW, 4).tolist() == [
    [1, 0, 2, 0, 1],
    [0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0],
    [1, 0, 0, 2, 0],
  ]


@pytest.mark.parametrize("number", [2, 10, 1000])
def test_all_three_count_the_same_images(number):
  given = invented_sweeps.small(classes=number, images=3000).answers[0]
  pairs = collections.Counter(
    zip(given.label.tolist(), given.predicted.tolist(), strict=True)
  )
  matrix = classes.confusion_matrix(given, number)
  for count in classes.per_class(given):
    assert count.images == matrix[count.label].sum()
    assert count.right == pairs[count.label, count.label]
  confused = {
    (c.label, c.predicted): c.images for c in classes.confusions(given)
  }
  assert confused == {k: n for k, n in pairs.items() if k[0] != k[1]}
  assert matrix.sum() == 3000


def test_a_label_without_a_name():
  assert classes.class_name(("cat", "dog"), 1) == "dog"
  assert classes.class_name(("cat", "dog"), 7) == "class 7"
