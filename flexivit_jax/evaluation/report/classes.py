"""Accuracy of each class."""

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
