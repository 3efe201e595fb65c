"""A dataset of a run: source, transforms, resolution; agreement of classes."""

import dataclasses

from flexivit_jax.core.resolution import Resolution
from flexivit_jax.data.pixels import transforms as transforms_lib
from flexivit_jax.data.sources import source as source_lib


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A source and how its images become the model's.

  Attributes:
    transforms: applied in order; without a resolution, all images must leave
      them at one size.
    resolution: the size of each image, which may then have any aspect ratio:
      images are packed into rows. None: a batch of images of one size.
  """

  source: source_lib.SourceSpec
  transforms: tuple[transforms_lib.Transform, ...] = ()
  resolution: Resolution | None = None


def check_same_classes(
  train: source_lib.Source, other: source_lib.Source
) -> None:
  """Refuses evaluation data whose labels mean something else.

  Raises:
    ValueError: naming the first classes that differ.
  """
  if tuple(train.classes) == tuple(other.classes):
    return
  if sorted(train.classes) == sorted(other.classes):
    raise ValueError("the training data's classes, but in another order")
  missing = sorted(set(train.classes) - set(other.classes))[:3]
  extra = sorted(set(other.classes) - set(train.classes))[:3]
  raise ValueError(
    f"{len(other.classes)} classes, but the training data has "
    f"{len(train.classes)}; only here: {extra}, only there: {missing}. Give "
    "both the same class folders"
  )
