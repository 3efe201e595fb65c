"""Single sizes, cascades and ensembles side by side."""

import invented_sweeps
import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.core.tokens import Batch
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.evaluation.cascade import measure
from flexivit_jax.evaluation.cascade.cascade import Cascade, Outcome
from flexivit_jax.evaluation.cascade.measure import CascadeResult, Measured
from flexivit_jax.evaluation.cascade.thresholds import Choice
from flexivit_jax.evaluation.report.figures.curve import draw_routes
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
  singles = (
    measured(large, 1.0, (0,) * 4, 0, 1, 0, 1),
    measured(small, 8.0, (0,) * 4, 0, 0, 0, 1),
  )
  best = measured(chosen, 3.0, (0, 1, 0, 0), 0, 0, 0, 1)
  result = CascadeResult(
    chosen=Choice(chosen, 1.0, 1.0),
    measured=best,
    singles=singles,
    front=(),
    curve=(singles[0], best),
  )
  together = {(LARGE, SMALL): answers(0, 0, 0, 0)}
  found = measure.routes(result, together, {LARGE: 10, SMALL: 90})
  assert [(r.kind, r.name, r.chosen) for r in found] == [
    ("single size", "12", False),
    ("single size", "4", False),
    ("cascade", "12 -(0.5)> 4", True),
    ("ensemble", "12 + 4", False),
  ]
  assert [r.top1 for r in found] == [0.5, 0.75, 0.75, 1]
  assert [r.seconds for r in found] == [1, 8, 3, 9]
  # One image of four went on.
  assert [r.multiply_adds for r in found] == [10, 90, 10 + 90 / 4, 100]
  assert [r.difference[0] for r in found] == [-0.25, 0, 0, 0.25]
  # One image of four differs: variance 3/16 * 4/3 = 1/4, over 4.
  assert [r.difference[1] for r in found] == [0.25, 0, 0, 0.25]


def test_the_table_compares_with_the_smallest_patches():
  head, *lines = measure.table(invented_sweeps.ROUTES).split("\n")
  assert head.split() == [
    *("patch", "sizes", "top-1", "%", "less", "smallest"),
    *("MFLOP", "us", "time", "%"),
  ]
  assert [line.split()[-1] for line in lines] == ["33", "100", "50", "133"]
  assert "cascade, chosen" in lines[2]
  assert "-0.4 +- 0.3" in lines[2]


def test_every_route_is_drawn_and_the_chosen_one_ringed():
  figure = draw_routes(invented_sweeps.ROUTES)
  (axes,) = figure.axes
  lines = {
    line.get_label(): np.column_stack(line.get_data()) for line in axes.lines
  }
  for kind, count in (("single size", 2), ("cascade", 1), ("ensemble", 1)):
    assert len(lines[kind]) == count
  np.testing.assert_allclose(lines["cascade"], [[75, 98.6]])
  np.testing.assert_allclose(lines["chosen on other images"], [[75, 98.6]])
  texts = {x.get_text() for x in axes.texts}
  assert texts == {"12 px", "4 px", "12 > 4", "12 + 4"}


def test_ensembles_are_means_of_probabilities():
  mesh = mesh_lib.make_mesh()
  n = 2 * mesh.size
  index = np.arange(n, dtype=np.int32)[:, None]
  labels = index % 3
  batch = Batch(
    np.zeros((n, 1, 1, 3), np.uint8), labels, np.ones((n, 1), "f4"), index
  )
  logits = {
    size: jnp.asarray(np.random.default_rng(i).normal(size=(n, 1, 3)), "f4")
    for i, size in enumerate((LARGE, SMALL))
  }

  def predict(params, batch, *, patch_hw):
    return logits[patch_hw] * params

  found = measure.measure_ensembles(
    predict, (LARGE, SMALL), jnp.float32(1), [batch], mesh
  )
  assert list(found) == [(LARGE, SMALL)]
  mean = sum(jax.nn.softmax(x) for x in logits.values()) / 2
  got = found[LARGE, SMALL]
  # Sums of two float32 probabilities, through logarithms.
  np.testing.assert_allclose(got.confidence, mean.max(-1)[:, 0], rtol=1e-5)
  assert got.predicted.tolist() == mean.argmax(-1)[:, 0].tolist()
