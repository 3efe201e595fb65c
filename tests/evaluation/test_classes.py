"""Counts by class, against counting by hand."""

import numpy as np
import pytest
from invented_sweeps import ranked

from flexivit_jax.evaluation.report import classes
from flexivit_jax.evaluation.report.classes import ClassCount


def answers(pairs):
  """Of (label, predicted)."""
  label, predicted = np.array(pairs, np.int32).T
  return ranked(label != predicted, label=label, predicted=predicted)


FEW = answers([(0, 0), (0, 2), (0, 2), (0, 5), (3, 3), (3, 0), (3, 3)])


def test_per_class():
  assert classes.per_class(FEW) == (ClassCount(0, 4, 1), ClassCount(3, 3, 2))
  assert classes.per_class(FEW)[1].accuracy == pytest.approx(2 / 3)


def test_a_label_without_a_name():
  assert classes.class_name(("cat", "dog"), 1) == "dog"
  assert classes.class_name(("cat", "dog"), 7) == "class 7"
