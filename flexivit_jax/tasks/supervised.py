"""Classification with labels."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import optax

from flexivit_jax.core.means import Mean
from flexivit_jax.core.tokens import Batch, to_tokens
from flexivit_jax.nn.vit import ViT


class Loss(Protocol):
  """Loss of each image: logits `[b, e, c]`, labels i32 `[b, e]` to `[b, e]`."""

  def __call__(self, logits: jax.Array, labels: jax.Array) -> jax.Array: ...

  def probabilities(self, logits: jax.Array) -> jax.Array:
    """Of the classes, as this loss reads logits; same shape."""


@dataclasses.dataclass(frozen=True)
class SoftmaxLoss:
  """Softmax cross-entropy.

  Attributes:
    label_smoothing: share of the target spread evenly over all classes.
  """

  label_smoothing: float = 0.0

  def __post_init__(self):
    if not 0 <= self.label_smoothing < 1:
      raise ValueError(f"label_smoothing {self.label_smoothing}: give 0 to 1")

  def __call__(self, logits, labels):
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    targets = optax.smooth_labels(targets, self.label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)

  def probabilities(self, logits):
    return jax.nn.softmax(logits, axis=-1)


@dataclasses.dataclass(frozen=True)
class SigmoidLoss:
  """Sigmoid cross-entropy, summed over the classes, as in big_vision."""

  def __call__(self, logits, labels):
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return optax.sigmoid_binary_cross_entropy(logits, targets).sum(axis=-1)

  def probabilities(self, logits):
    return jax.nn.sigmoid(logits)


@dataclasses.dataclass(frozen=True)
class Supervised:
  """Supervised classification.

  Attributes:
    loss: of each image.
  """

  loss: Loss = SoftmaxLoss()

  metrics = ("loss", "accuracy")

  def init(self, model: ViT, key: jax.Array, inputs, patch_hw):
    """Parameters for inputs like these (shapes only matter)."""

    def init(inputs):
      return model.init(key, to_tokens(inputs, patch_hw))["params"]

    return jax.jit(init)(inputs)

  def measure(
    self,
    model: ViT,
    params,
    batch: Batch,
    *,
    patch_hw: tuple[int, int],
    dropout_key: jax.Array | None = None,
  ) -> dict[str, Mean]:
    """Loss and accuracy over the batch's real images.

    Args:
      patch_hw: patch size in pixels; static.
      dropout_key: turns training mode on.
    """
    logits = self.logits(
      model, params, batch, patch_hw=patch_hw, dropout_key=dropout_key
    )
    correct = logits.argmax(axis=-1) == batch.labels
    return {
      "loss": Mean.of(self.loss(logits, batch.labels), batch.weights),
      "accuracy": Mean.of(correct.astype(jnp.float32), batch.weights),
    }

  def logits(
    self,
    model: ViT,
    params,
    batch: Batch,
    *,
    patch_hw: tuple[int, int],
    dropout_key: jax.Array | None = None,
  ) -> jax.Array:
    """`[b, e, c]` of a batch; arguments as for `measure`."""
    train = dropout_key is not None
    return model.apply(
      {"params": params},
      to_tokens(batch.inputs, patch_hw),
      train=train,
      rngs={"dropout": dropout_key} if train else None,
    ).logits
