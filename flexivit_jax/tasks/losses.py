"""Losses of logits, by targets: what the labels of each image ask for."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import optax

from flexivit_jax.core.errors import check
from flexivit_jax.core.tokens import Batch


class Loss(Protocol):
  """Loss of each image: logits and targets `[b, e, c]` to `[b, e]`."""

  def __call__(self, logits: jax.Array, targets: jax.Array) -> jax.Array: ...

  def probabilities(self, logits: jax.Array) -> jax.Array:
    """Of the classes, as this loss reads logits; same shape."""


@dataclasses.dataclass(frozen=True)
class SoftmaxLoss:
  """Softmax cross-entropy; several labels of an image share its target.

  Attributes:
    label_smoothing: share of the target spread evenly over all classes.
  """

  label_smoothing: float = 0.0

  def __post_init__(self):
    check("label_smoothing", self.label_smoothing, at_least=0, below=1)

  def __call__(self, logits, targets):
    targets = targets.astype(logits.dtype)
    # An image without a label has no target, and no loss.
    total = targets.sum(axis=-1, keepdims=True)
    targets = targets / jnp.where(total > 0, total, 1)
    targets = optax.smooth_labels(targets, self.label_smoothing)
    loss = optax.softmax_cross_entropy(logits, targets)
    return jnp.where(total[..., 0] > 0, loss, 0)

  def probabilities(self, logits):
    return jax.nn.softmax(logits, axis=-1)


@dataclasses.dataclass(frozen=True)
class SigmoidLoss:
  """Sigmoid cross-entropy, summed over the classes, as in big_vision.

  Attributes:
    label_smoothing: share of each class's target that moves to 1/2.
  """

  label_smoothing: float = 0.0

  def __post_init__(self):
    check("label_smoothing", self.label_smoothing, at_least=0, below=1)

  def __call__(self, logits, targets):
    targets = targets.astype(logits.dtype)
    targets = targets + self.label_smoothing * (0.5 - targets)
    return optax.sigmoid_binary_cross_entropy(logits, targets).sum(axis=-1)

  def probabilities(self, logits):
    return jax.nn.sigmoid(logits)


def targets(batch: Batch, num_classes: int) -> jax.Array:
  """`[b, e, c]` in [0, 1]: what a batch asks of each class.

  Those of mixed images are the batch's own; else 1 for each label.
  """
  if batch.targets is not None:
    return batch.targets
  return of_labels(batch.labels, num_classes)


def of_labels(labels: jax.Array, num_classes: int) -> jax.Array:
  """1 for each label, f32 `[b, e, c]`.

  Args:
    labels: i32 `[b, e]`, or `[b, e, k]` where an image may have several: -1 for
      none.
  """
  if labels.ndim == 2:
    return jax.nn.one_hot(labels, num_classes)
  # A label that is there twice asks for no more.
  return jax.nn.one_hot(labels, num_classes).max(axis=2)


def is_right(predicted: jax.Array, targets: jax.Array) -> jax.Array:
  """f32 `[b, e]`, 1 where no class has a higher target than the predicted.

  So any label of several is right, and of two mixed images the heavier.

  Args:
    predicted: i32 `[b, e]`, a class each.
  """
  own = jnp.take_along_axis(targets, predicted[..., None], axis=-1)[..., 0]
  highest = targets.max(axis=-1)
  return ((own >= highest) & (highest > 0)).astype(jnp.float32)
