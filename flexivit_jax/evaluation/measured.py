"""Metrics on evaluation data, of a task that does not classify."""

import dataclasses
import functools
import operator

import jax

from flexivit_jax.core.metric import Metric
from flexivit_jax.core.tokens import Batch
from flexivit_jax.models.vit import ViT
from flexivit_jax.tasks.task import Task


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TaskMetrics:
  """Sums and counts over the images of batches.

  Attributes:
    index: i32, of the image in its source; -1 where there is none.
    means: of each metric of the task.
  """

  index: jax.Array
  means: dict[str, Metric]


def forward(
  task: Task, model: ViT, params, batch: Batch, *, patch_hw
) -> TaskMetrics:
  """The task's metrics of a batch, on its devices; as `sweep.forward`."""
  found = task.measure(model, params, batch, patch_hw=patch_hw)
  return TaskMetrics(batch.index, {name: found[name] for name in task.metrics})


def gather(parts: list[TaskMetrics]) -> dict[str, float]:
  """The means over batches, on the host.

  Raises:
    ValueError: there is none.
  """
  if not parts:
    raise ValueError("there is no image to evaluate on")
  return {
    name: float(
      functools.reduce(operator.add, (part.means[name] for part in parts))
    )
    for name in parts[0].means
  }
