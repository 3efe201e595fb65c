"""The mean of the answers at several patch sizes, to judge cascades by."""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from flexivit_jax.core.tokens import Batch
from flexivit_jax.tasks.predictions import Answers, answer


class Predict(Protocol):
  """Logits f32 `[b, e, c]` of a batch at a patch size."""

  def __call__(
    self, params: Any, batch: Batch, *, patch_hw: tuple[int, int]
  ) -> jax.Array: ...


def ensembles(
  predict: Predict,
  sizes: Sequence[tuple[int, int]],
  *,
  of_logs: bool = False,
):
  """Answers of the first size, of the first two, ..., of all of them.

  An ensemble costs what its sizes cost together.

  Args:
    sizes: the first of them first.
    of_logs: mean of log-probabilities, renormalised, which is a softmax of
      the logits' mean; else the mean of probabilities.

  Returns:
    A function (params, batch) to a list of `Answers`, one for each number of
    sizes; its loss is minus the log-probability of the label.
  """

  def call(params, batch: Batch) -> list[Answers]:
    logs = [
      jax.nn.log_softmax(predict(params, batch, patch_hw=size))
      for size in sizes
    ]
    found = []
    for count in range(1, len(logs) + 1):
      first = jnp.stack(logs[:count])
      if of_logs:
        mean = jax.nn.log_softmax(first.mean(axis=0))
      else:
        mean = jax.nn.logsumexp(first, axis=0) - math.log(count)
      found.append(_answers(mean, batch))
    return found

  return call


def _answers(logs: jax.Array, batch: Batch) -> Answers:
  own = jnp.take_along_axis(logs, batch.labels[..., None], axis=-1)[..., 0]
  return answer(logs, jnp.exp(logs), -own, batch.labels, batch.index)
