"""Cascades timed in turn, the one that is chosen, and the table of them."""

import itertools
import types

import jax
import numpy as np
from invented_sweeps import ROUTES, assert_same, ranked

from flexivit_jax.core.tokens import Batch
from flexivit_jax.devices import mesh
from flexivit_jax.evaluation.cascade import measure as measure_lib
from flexivit_jax.evaluation.cascade import run as run_lib
from flexivit_jax.evaluation.cascade.cascade import Cascade, Outcome, predict
from flexivit_jax.evaluation.cascade.measure import (
  Measured,
  measure,
  measure_cascade,
)
from flexivit_jax.evaluation.cascade.run import Ran
from flexivit_jax.evaluation.cascade.thresholds import Choice
from flexivit_jax.tasks.predictions import Answers

LARGE, SMALL = (12, 12), (4, 4)
COSTS = {LARGE: 1.0, SMALL: 9.0}


def make_batch(index):
  index = np.array(index, np.int32)[:, None]
  return Batch(
    inputs=np.broadcast_to(index[..., None, None], (len(index), 1, 1, 3)),
    labels=np.zeros_like(index),
    weights=(index >= 0).astype(np.float32),
    index=index,
  )


class Loader:
  """24 images in three batches, the last of them in another order."""

  batches = (
    make_batch(range(16)),
    make_batch([19, 18, 17, 16, -1, 21, 20, *(-1,) * 9]),
    make_batch([22, 23, *(-1,) * 14]),
  )

  def __iter__(self):
    return iter(self.batches)

  def example(self):
    return self.batches[0]


def forward(params, batch, *, patch_hw):
  """At 12 px every third image is wrong, and its confidence says so; at 4 px
  all are right."""
  number = batch.inputs[:, 0, 0, :1]
  wrong = (number % 3 == 0) & (patch_hw == LARGE)
  return Answers(
    index=batch.index,
    label=batch.labels,
    predicted=wrong.astype(np.int32),
    confidence=jax.numpy.where(wrong, 0.25, 0.75),
    loss=number * params,
    rank=wrong.astype(np.int32),
  )


def answers(numbers):
  """The same of each size, on the host."""
  made, numbers = {}, np.array(numbers, np.int32)
  for size in (SMALL, LARGE):
    wrong = (numbers % 3 == 0) & (size == LARGE)
    confidence = np.where(wrong, 0.25, 0.75)
    fields = dict(index=numbers, predicted=wrong, confidence=confidence)
    made[size] = ranked(wrong, loss=numbers, **fields)
  return made


def test_the_chosen_cascade_measured_on_other_images():
  lines = []
  options = dict(costs=COSTS, loader=Loader(), mesh=mesh.make_mesh())
  options |= dict(validation=answers(range(30, 60)), report=lines.append)
  found, measured = measure_cascade(forward, np.float32(1), **options)
  chosen = Cascade((LARGE, SMALL), (0.25,))
  assert found == Choice(chosen, 1.0, 1 + 9 / 3)
  outcome = measured[chosen].outcome
  expected = predict(chosen, answers(range(24)))
  assert_same(outcome.answers, expected.answers)
  np.testing.assert_array_equal(outcome.stages, expected.stages)
  assert outcome.reached == (24, 8)
  # What is predicted from its thresholds is what is counted.
  assert outcome.cost(COSTS) == expected.cost(COSTS) == (24 + 9 * 8) / 24
  # 6, 2 and 0 images go on of three batches of 16 rows, on eight devices.
  assert measured[chosen].rows == (48, 16)
  # Two whole ones, and 8 and 16 rows of the smaller patches.
  assert len(lines) == 4
  # Single sizes first; the front has only one more.
  singles = [Cascade((LARGE,)), Cascade((SMALL,))]
  assert list(measured) == [*singles, chosen]
  assert [measured[c].outcome.answers.top(1) for c in singles] == [16 / 24, 1]
  assert [measured[c].rows for c in singles] == [(48,), (48,)]
  assert all(0 < one.seconds < 10 for one in measured.values())
  # A target that large patches reach chooses them.
  found, _ = measure_cascade(forward, np.float32(1), **options, target=0.6)
  assert found.cascade.sizes == (LARGE,)


def test_cascades_take_turns_and_each_batch_counts_its_median(monkeypatch):
  """Rounds of 1, 2 and 9 seconds for the first, half of that for the other."""
  clock, order = [0.0], []
  rounds = {"12": itertools.cycle([1, 2, 9]), "4": itertools.cycle([0.5, 1, 7])}

  def run(programs, cascade, params, batch):
    order.append((str(cascade), int(batch.index[0, 0])))
    clock[0] += next(rounds[str(cascade)])
    index = np.asarray(batch.index).ravel()
    nothing = np.zeros_like(index)
    made = Answers(index, nothing, nothing, nothing, nothing, nothing)
    return Ran(made, nothing, (index.size,))

  monkeypatch.setattr(run_lib, "run", run)
  programs = types.SimpleNamespace(
    mesh=mesh.make_mesh(), warm=lambda *_: order.append("warm")
  )
  both = [Cascade((LARGE,)), Cascade((SMALL,))]
  found = measure(
    programs, both, None, Loader(), rounds=3, clock=lambda: clock[0]
  )
  assert order[0] == "warm"
  pairs = [order[i : i + 2] for i in range(1, len(order), 2)]
  # Each batch three times, both cascades each time, neither always first.
  firsts = [i for i in (0, 19, 22) for _ in range(3)]
  assert [{*pair} for pair in pairs] == [{("12", i), ("4", i)} for i in firsts]
  assert {pair[0][0] for pair in pairs} == {"12", "4"}
  # Three batches at their medians, over 24 images.
  assert [x.seconds for x in found] == [3 * 2 / 24, 3 * 1 / 24]
  assert [x.rows for x in found] == [(48,), (48,)]


def measured(cascade, seconds, stages, *ranks):
  outcome = Outcome(cascade, ranked(ranks), np.asarray(stages, np.int32))
  return Measured(outcome, (), seconds)


def test_routes_of_a_measured_cascade():
  large, small = Cascade((LARGE,)), Cascade((SMALL,))
  chosen = Cascade((LARGE, SMALL), (0.5,))
  runs = {
    large: measured(large, 1.0, (0,) * 4, 0, 1, 0, 1),
    small: measured(small, 8.0, (0,) * 4, 0, 0, 0, 1),
    chosen: measured(chosen, 3.0, (0, 1, 0, 0), 0, 0, 0, 1),
  }
  found = measure_lib.routes(
    Choice(chosen, 1.0, 1.0), runs, {LARGE: 10, SMALL: 90}
  )
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
  head, *lines = measure_lib.table(ROUTES).split("\n")
  assert head.split() == [
    *("patch", "sizes", "top-1", "%", "less", "smallest"),
    *("MFLOP", "us", "time", "%"),
  ]
  assert [line.split()[-1] for line in lines] == ["33", "100", "50"]
  assert "cascade, chosen" in lines[2]
  assert "-0.4 +- 0.3" in lines[2]
