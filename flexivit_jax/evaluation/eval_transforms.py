"""Preprocessing of images that a checkpoint states."""

import dataclasses
import pathlib

from flexivit_jax.checkpoints import published
from flexivit_jax.checkpoints.formats import infer
from flexivit_jax.checkpoints.model import LoadedModel
from flexivit_jax.config.experiment import Experiment
from flexivit_jax.core.resolution import RANDOM, Resolution
from flexivit_jax.core.sizes import as_hw
from flexivit_jax.data.dataset import Dataset
from flexivit_jax.data.pixels import transforms as transforms_lib
from flexivit_jax.data.sources import digits
from flexivit_jax.nn.positions import learned_grid


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """Steps from an image of any size to the input of a model.

  Attributes:
    transforms: applied in order; without a resolution they make one size.
    resolution: of each image, which keeps its aspect ratio and is packed.
    origin: who says so.
  """

  transforms: tuple[transforms_lib.Transform, ...]
  resolution: Resolution | None
  origin: str

  @property
  def steps(self) -> tuple:
    """All steps in order."""
    last = () if self.resolution is None else (self.resolution,)
    return *self.transforms, *last


def usual(vit: LoadedModel, name: str) -> Preprocessing | None:
  """Preprocessing of a run's evaluation, or to the size known for a file.

  None where nobody says; and where it takes images that have one size already,
  or are large enough, since other images may not be.

  Args:
    name: that the model was loaded by; of a published one it tells the size.
  """
  if vit.spec.experiment is not None:
    run = vit.spec.experiment
    return of_run(run) or _of_size_of_run(run)
  if not pathlib.Path(name).exists():
    try:
      side = published.find(name).image_side
      return _squashed((side, side), "published for that size")
    except ValueError:
      return None
  model = vit.model
  if (
    isinstance(model.position, learned_grid.LearnedGrid)
    and vit.spec.patch_size == model.stored_patch_hw
  ):
    # One patch size, stored as it is used: a plain ViT.
    hw = infer.stored_image_hw(model)
    return _squashed(hw, "the size that its positions are for")
  return None


def turns_images(experiment: Experiment | None) -> bool:
  """True for a run that turns images by their EXIF orientation."""
  data = next(_data(experiment), (None, None))[1] if experiment else None
  return bool(data and getattr(data.source, "exif_transpose", False))


def trained_hw(experiment: Experiment) -> tuple[int, int] | None:
  """(height, width) of a run's training images in pixels, where its config
  says so; None: it does not, or they differ."""
  data = experiment.train
  if data.resolution is not None:
    return None
  for transform in reversed(data.transforms):
    if isinstance(transform, transforms_lib.SIZING):
      size = getattr(transform, "size", None)
      return None if size is None else as_hw(size)
  side = getattr(data.source, "side", None)
  return None if side is None else as_hw(side)


def _data(experiment):
  for name in ("test", "validation", "train"):
    if (data := getattr(experiment, name)) is not None:
      yield name, data


def of_run(experiment: Experiment) -> Preprocessing | None:
  """Preprocessing of a run's evaluation, by its own transforms.

  None: they give no size, or not to files of any size.
  """
  name, data = next(_data(experiment))
  origin = f"as the run's {name} data"
  transforms = tuple(
    x for x in data.transforms if not isinstance(x, transforms_lib.RANDOM)
  )
  sizing = [
    x
    for x in data.transforms
    if isinstance(x, transforms_lib.SIZING)
    and not isinstance(x, transforms_lib.PadSquare)
  ]
  # What a random crop makes is another size; a centre may not fit.
  usable = not any(isinstance(x, transforms_lib.InceptionCrop) for x in sizing)
  usable &= not sizing or not isinstance(sizing[0], transforms_lib.CentralCrop)
  if data.resolution is not None:
    if not usable or isinstance(data.resolution, RANDOM):
      return None
    return Preprocessing(transforms, data.resolution, origin)
  if usable and sizing:
    return Preprocessing(transforms, None, origin)
  return None


def _of_size_of_run(experiment) -> Preprocessing | None:
  name, data = next(_data(experiment))
  hw = None if data.resolution is not None else _stated_size(data)
  return hw and _squashed(hw, f"the size of the run's {name} data")


def _stated_size(data: Dataset) -> tuple[int, int] | None:
  for transform in reversed(data.transforms):
    if isinstance(
      transform, (transforms_lib.InceptionCrop, transforms_lib.CentralCrop)
    ):
      return transform.size
  if isinstance(data.source, digits.Digits):
    return data.source.side, data.source.side
  return None


def _squashed(hw, origin):
  return Preprocessing((transforms_lib.Resize(tuple(hw)),), None, origin)
