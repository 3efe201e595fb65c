"""The numbers that training steps measure: their names, zeros and means."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.config.experiment import Experiment
from flexivit_jax.core.metric import Metric
from flexivit_jax.core.places import membership
from flexivit_jax.core.sizes import size_name
from flexivit_jax.core.tokens import Batch
from flexivit_jax.tasks import pack_metrics
from flexivit_jax.tasks.pack_metrics import LOSSES
from flexivit_jax.training import norms, step

# In G multiply-adds, as papers count FLOPs.
PACKED_COST = "pack/gflops_per_image"
# Of a training step, in forward passes: backward, each product becomes two.
TRAINING = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Numbers:
  """What the steps of an experiment measure.

  Attributes:
    params: arrays or shapes.
    image_hw: (height, width) of all images; None: they are packed.
    teacher_cost: multiply-adds of a teacher's forward pass of one image; 0:
      there is none.
  """

  experiment: Experiment
  params: Any
  image_hw: tuple[int, int] | None
  teacher_cost: int = 0

  def of_rows(self, batch: Batch) -> dict[str, Metric]:
    """What packed rows hold and cost; nothing of images of one size."""
    if self.experiment.packing is None:
      return {}
    return {
      PACKED_COST: self._packed_cost(batch),
      **pack_metrics.pack_report(batch),
    }

  @property
  def metrics(self) -> tuple[str, ...]:
    """Names of the numbers that a training step measures, but for the
    gradient's norm."""
    packed = (*pack_metrics.METRICS, PACKED_COST)
    packed = packed if self.experiment.packing else ()
    return *self.experiment.task.metrics, *packed

  @property
  def arrays(self) -> dict[str, tuple[str, ...]]:
    """Names in each array of numbers that a training step measures: a buffer
    of its own for each number would cost small models some time."""
    sizes = self.experiment.patch_size.sizes
    by_size = tuple(f"loss@{size_name(s)}" for s in sizes if len(sizes) > 1)
    named = {"norms": norms.names(self.params), LOSSES: by_size}
    return {array: names for array, names in named.items() if names}

  def zero(self) -> dict[str, Metric]:
    """What the steps add to."""
    zero = step.zero_metrics(self.metrics)
    for array, names in self.arrays.items():
      nothing = jnp.zeros(len(names))
      count = jnp.zeros(()) if array == "norms" else nothing
      zero[array] = Metric(nothing, count)
    return zero

  def with_loss_by_size(
    self, measured: dict[str, Metric], program: tuple[int, int] | None
  ) -> dict[str, Metric]:
    """With the loss as that of its patch size as well; of packed rows the task
    has measured it."""
    if program is None:
      return measured
    programs = self.experiment.programs
    place = programs.index(program), len(programs)
    return measured | {LOSSES: measured["loss"].at(*place)}

  def values(self, metrics) -> dict[str, float]:
    """The means by name, without those of nothing; waits for them once."""
    metrics = jax.device_get(metrics)
    names = (*self.metrics, "gradient_norm")
    values = {name: float(metrics[name]) for name in names}
    for array, names in self.arrays.items():
      total, count = np.broadcast_arrays(
        metrics[array].total, metrics[array].count
      )
      means_of = zip(names, total.tolist(), count.tolist(), strict=True)
      values |= {name: x / k for name, x, k in means_of if k}
    return values

  def gflops(self, program: tuple[int, int] | None) -> float:
    """G multiply-adds of a training step; of packed rows they are measured.

    A teacher's forward pass is part of it, and has no backward pass.
    """
    if program is None:
      return 0.0
    per_image = self.experiment.task.multiply_adds(
      self.experiment.model, self.image_hw, program
    )
    per_image = TRAINING * per_image + self.teacher_cost
    return self.experiment.batch_size * per_image / 1e9

  def _packed_cost(self, batch: Batch) -> Metric:
    """G multiply-adds that the forward pass of a packed image needs: for its
    own patches alone, neither padding nor attention to other images."""
    tokens = batch.inputs
    member = membership(tokens.segments, tokens.num_images)
    counts = member.sum(axis=1, dtype=jnp.float32)
    needed = self.experiment.task.packed_multiply_adds(
      self.experiment.model, counts, 1, tokens.patch_sizes
    )
    return Metric.of(needed / 1e9, batch.weights)
