"""Classification with labels."""

import dataclasses

import jax

from flexivit_jax.core.cut import to_tokens
from flexivit_jax.core.metric import Metric
from flexivit_jax.core.tokens import Batch
from flexivit_jax.models.vit import ViT
from flexivit_jax.tasks import losses
from flexivit_jax.tasks.pack_metrics import loss_by_patch_size
from flexivit_jax.tasks.task import Classifies


@dataclasses.dataclass(frozen=True)
class Supervised(Classifies):
  """Supervised classification.

  Attributes:
    loss: of each image.
  """

  loss: losses.Loss = losses.SoftmaxLoss()

  metrics = ("loss", "accuracy")

  def init(self, model: ViT, key: jax.Array, inputs, patch_hw):
    """As `task.Task`."""

    def init(inputs):
      return model.init(key, to_tokens(inputs, patch_hw))["params"]

    return jax.jit(init)(inputs)

  def measure(
    self,
    model: ViT,
    params,
    batch: Batch,
    *,
    patch_hw: tuple[int, int] | None,
    dropout_key: jax.Array | None = None,
  ) -> dict[str, Metric]:
    """Loss and accuracy, as `task.Task`."""
    logits = self.logits(
      model, params, batch, patch_hw=patch_hw, dropout_key=dropout_key
    )
    values = by_labels(self.loss, logits, batch)
    means = {name: Metric.of(x, batch.weights) for name, x in values.items()}
    return means | loss_by_patch_size(values["loss"], batch)

  def logits(
    self,
    model: ViT,
    params,
    batch: Batch,
    *,
    patch_hw: tuple[int, int] | None,
    dropout_key: jax.Array | None = None,
  ) -> jax.Array:
    """As `task.Task`."""
    return logits_of(
      model, params, batch.inputs, patch_hw=patch_hw, dropout_key=dropout_key
    )


def by_labels(
  loss: losses.Loss, logits: jax.Array, batch: Batch
) -> dict[str, jax.Array]:
  """Loss and accuracy of each image, f32 `[b, e]`."""
  targets = losses.targets(batch, logits.shape[-1])
  predicted = logits.argmax(axis=-1)
  return {
    "loss": loss(logits, targets),
    "accuracy": losses.is_right(predicted, targets),
  }


def logits_of(
  model: ViT,
  params,
  inputs,
  *,
  patch_hw: tuple[int, int] | None,
  dropout_key: jax.Array | None = None,
) -> jax.Array:
  """`[b, e, c]` of a batch's inputs; arguments as for `task.Task.measure`."""
  train = dropout_key is not None
  return model.apply(
    {"params": params},
    to_tokens(inputs, patch_hw),
    train=train,
    rngs={"dropout": dropout_key} if train else None,
  ).logits
