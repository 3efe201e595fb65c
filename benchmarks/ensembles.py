"""The mean of the answers at several patch sizes, to judge cascades by."""

import math

import jax
import jax.numpy as jnp

from flexivit_jax.tasks.predictions import answer


def ensembles(predict, sizes, *, of_logs: bool = False):
  """Answers of the first size, of the first two, ..., of all of them.

  Args:
    predict: (params, batch, patch_hw=) to logits f32 `[b, e, c]`.
    sizes: the first of them first.
    of_logs: mean of log-probabilities, renormalised, which is a softmax of
      the logits' mean; else the mean of probabilities.

  Returns:
    A function (params, batch) to a list of `Answers`, one for each number of
    sizes; its loss is minus the log-probability of the label.
  """

  def call(params, batch):
    logs = [
      jax.nn.log_softmax(predict(params, batch, patch_hw=size))
      for size in sizes
    ]
    found = []
    for count in range(1, len(logs) + 1):
      first = jnp.stack(logs[:count])
      mean = jax.nn.logsumexp(first, axis=0) - math.log(count)
      if of_logs:
        mean = jax.nn.log_softmax(first.mean(axis=0))
      own = jnp.take_along_axis(mean, batch.labels[..., None], axis=-1)
      loss = -own[..., 0]
      found.append(answer(mean, jnp.exp(mean), loss, batch.labels, batch.index))
    return found

  return call
