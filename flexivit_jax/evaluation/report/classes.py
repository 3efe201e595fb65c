"""What a model gets right and wrong, class by class."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from flexivit_jax.tasks.predictions import Answers


@dataclasses.dataclass(frozen=True)
class ClassCount:
  """Images of one class.

  Attributes:
    right: those whose label has the highest logit.
  """

  label: int
  images: int
  right: int

  @property
  def accuracy(self) -> float:
    return self.right / self.images


@dataclasses.dataclass(frozen=True)
class Confusion:
  """Images of one class that were taken for another.

  Attributes:
    share: of the images of class `label`.
  """

  label: int
  predicted: int
  images: int
  share: float


def class_name(classes: Sequence[str], label: int) -> str:
  """A head may have more classes than the data have names."""
  return classes[label] if label < len(classes) else f"class {label}"


def per_class(answers: Answers) -> tuple[ClassCount, ...]:
  """By label; classes without images are left out."""
  images = np.bincount(answers.label)
  right = np.bincount(answers.label, answers.rank == 0).astype(int)
  return tuple(
    ClassCount(int(label), int(images[label]), int(right[label]))
    for label in np.flatnonzero(images)
  )


def confusions(answers: Answers) -> tuple[Confusion, ...]:
  """Pairs of classes, from the most images to the fewest, then by share, then
  by label."""
  wrong = np.asarray(answers.predicted != answers.label)
  pairs = np.stack([answers.label[wrong], answers.predicted[wrong]], axis=-1)
  pairs, counts = np.unique(pairs, axis=0, return_counts=True)
  images = np.bincount(answers.label)
  found = [
    Confusion(int(label), int(taken), int(n), int(n) / int(images[label]))
    for (label, taken), n in zip(pairs, counts, strict=True)
  ]
  return tuple(sorted(found, key=lambda c: (-c.images, -c.share, c.label)))


def confusion_matrix(answers: Answers, num_classes: int) -> np.ndarray:
  """Images by (label, predicted): i64 `[c, c + 1]`. The last column counts
  predictions that no class of the data has."""
  matrix = np.zeros((num_classes, num_classes + 1), np.int64)
  taken = np.minimum(answers.predicted, num_classes)
  np.add.at(matrix, (answers.label, taken), 1)
  return matrix
