"""Single sizes and cascades side by side."""

import invented_sweeps
import numpy as np

from flexivit_jax.evaluation.cascade import measure
from flexivit_jax.evaluation.cascade.cascade import Cascade, Outcome
from flexivit_jax.evaluation.cascade.measure import Measured
from flexivit_jax.evaluation.cascade.thresholds import Choice
from flexivit_jax.tasks.predictions import Answers

LARGE, SMALL = (12, 12), (4, 4)


def answers(*ranks):
  """Of four images."""
  zeros = np.zeros(4, np.int32)
  return Answers(
    np.arange(4, dtype=np.int32),
    *(zeros, zeros, zeros.astype(np.float32), zeros.astype(np.float32)),
    np.asarray(ranks, np.int32),
  )


def measured(cascade, seconds, stages, *ranks):
  outcome = Outcome(cascade, answers(*ranks), np.asarray(stages, np.int32))
  return Measured(outcome, (), seconds)


def test_routes_of_a_measured_cascade():
  large, small = Cascade((LARGE,)), Cascade((SMALL,))
  chosen = Cascade((LARGE, SMALL), (0.5,))
  runs = {
    large: measured(large, 1.0, (0,) * 4, 0, 1, 0, 1),
    small: measured(small, 8.0, (0,) * 4, 0, 0, 0, 1),
    chosen: measured(chosen, 3.0, (0, 1, 0, 0), 0, 0, 0, 1),
  }
  found = measure.routes(Choice(chosen, 1.0, 1.0), runs, {LARGE: 10, SMALL: 90})
  assert [(r.kind, r.name, r.chosen) for r in found] == [
    ("single size", "12", False),
    ("single size", "4", False),
    ("cascade", "12 -(0.5)> 4", True),
  ]
  assert [r.top1 for r in found] == [0.5, 0.75, 0.75]
  assert [r.seconds for r in found] == [1, 8, 3]
  # One image of four went on.
  assert [r.multiply_adds for r in found] == [10, 90, 10 + 90 / 4]
  assert [r.difference[0] for r in found] == [-0.25, 0, 0]
  # One image of four differs: variance 3/16 * 4/3 = 1/4, over 4.
  assert [r.difference[1] for r in found] == [0.25, 0, 0]


def test_the_table_compares_with_the_smallest_patches():
  head, *lines = measure.table(invented_sweeps.ROUTES).split("\n")
  assert head.split() == [
    *("patch", "sizes", "top-1", "%", "less", "smallest"),
    *("MFLOP", "us", "time", "%"),
  ]
  assert [line.split()[-1] for line in lines] == ["33", "100", "50"]
  assert "cascade, chosen" in lines[2]
  assert "-0.4 +- 0.3" in lines[2]
