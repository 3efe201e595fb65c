"""What training and evaluation ask of a task."""

from typing import Protocol

import jax

from flexivit_jax.core.means import Mean
from flexivit_jax.core.tokens import Batch
from flexivit_jax.nn.vit import ViT
from flexivit_jax.tasks.losses import Loss


class Task(Protocol):
  """Parameters, loss and metrics for a backbone.

  Attributes:
    loss: by the labels, for evaluation as well.
    metrics: names of the single numbers that `measure` returns.
  """

  loss: Loss
  metrics: tuple[str, ...]

  def init(self, model: ViT, key: jax.Array, inputs, patch_hw):
    """Parameters for inputs like these (shapes only matter)."""

  def measure(
    self,
    model: ViT,
    params,
    batch: Batch,
    *,
    patch_hw: tuple[int, int] | None,
    dropout_key: jax.Array | None = None,
  ) -> dict[str, Mean]:
    """Sums and counts over the batch's real images, among them "loss"; where
    patch sizes share rows, also `by_patch_size.loss_by_patch_size`.

    Args:
      patch_hw: patch size in pixels; static. None: packed rows know it.
      dropout_key: turns training mode on.
    """

  def logits(
    self,
    model: ViT,
    params,
    batch: Batch,
    *,
    patch_hw: tuple[int, int] | None,
    dropout_key: jax.Array | None = None,
  ) -> jax.Array:
    """`[b, e, c]` of a batch; arguments as for `measure`."""
