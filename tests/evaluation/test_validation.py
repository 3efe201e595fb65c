"""What an evaluation says, of tasks that classify and of others."""

import jax.numpy as jnp
import numpy as np
import pytest
from invented_sweeps import ranked

from flexivit_jax.checkpoints import run_metrics
from flexivit_jax.core.metric import Metric
from flexivit_jax.core.tokens import Batch
from flexivit_jax.evaluation import measured, validation
from flexivit_jax.evaluation.settings import Setting
from flexivit_jax.evaluation.sweep import Found
from flexivit_jax.tasks.classification import Supervised

SIZES = [Setting((4, 4), (24, 24)), Setting((6, 6), (24, 24))]


class Brightness:
  """A task that measures a batch's mean label and twice that."""

  classifies = False
  metrics = ("loss", "twice")

  def measure(self, model, params, batch, *, patch_hw):
    del model, patch_hw
    loss = params * batch.labels
    return {
      "loss": Metric.of(loss, batch.weights),
      "twice": Metric.of(2 * loss, batch.weights),
      "losses": Metric(jnp.zeros(2), jnp.zeros(2)),  # not one of its metrics
    }


def batch(labels, weights):
  labels, weights = (
    jnp.array(x, jnp.float32)[:, None] for x in (labels, weights)
  )
  return Batch(None, labels, weights, jnp.arange(len(labels))[:, None])


def test_sums_of_batches_are_divided_once():
  task, of = Brightness(), validation.of(Brightness())
  parts = [
    of.forward(task, None, 10.0, batch(labels, weights), patch_hw=(4, 4))
    for labels, weights in (([1, 2, 3], [1, 1, 1]), ([9, 5, 7], [1, 0, 0]))
  ]
  np.testing.assert_array_equal(parts[0].index[:, 0], [0, 1, 2])
  found = of.gather(parts)
  assert found == {"loss": 37.5, "twice": 75.0}  # not of means: 55 and 110
  assert of.rows(found) == found


def test_of_no_image_nothing_is_said():
  with pytest.raises(ValueError, match=r"^there is no image to evaluate on$"):
    measured.gather([])


def test_a_loss_is_better_where_it_is_lower():
  of = validation.of(Brightness())
  found = {
    s: Found({"loss": loss, "twice": 2 * loss}, 16, 1)
    for s, loss in zip(SIZES, (0.25, 0.75), strict=True)
  }
  values = of.values(found)
  assert values == {
    "validation/loss": 0.5,
    "validation/loss@4": 0.25,
    "validation/twice@4": 0.5,
    "validation/loss@6": 0.75,
    "validation/twice@6": 1.5,
  }
  assert run_metrics.is_evaluation(values)
  assert run_metrics.score(values) == -0.5


def test_an_accuracy_is_better_where_it_is_higher():
  of = validation.of(Supervised())

  four = ranked([0, 0, 1, 0], loss=[0.5, 0.5, 2.0, 1.0])
  six = ranked([0, 3, 1, 0], loss=[1.0, 1.0, 1.0, 3.0])
  found = {SIZES[0]: Found(four, 36, 1), SIZES[1]: Found(six, 16, 1)}
  values = of.values(found)
  assert values == {
    "validation/top1": 0.625,
    "validation/top1@4": 0.75,
    "validation/loss@4": 1.0,
    "validation/top1@6": 0.5,
    "validation/loss@6": 1.5,
  }
  assert run_metrics.score(values) == 0.625
