"""One example: an image in the views of a step, its label and index."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from flexivit_jax.core.errors import Fault
from flexivit_jax.data.pixels import transforms as transforms_lib
from flexivit_jax.data.pixels.decode import BadImageError
from flexivit_jax.data.pixels.preprocessing import ANTIALIAS
from flexivit_jax.data.sources.source import LabelError, Source, dtype_of


class ImageShapeError(ValueError, Fault):
  """Images of a batch differ in size."""


@dataclasses.dataclass(frozen=True)
class Example:
  """Loads one example.

  Raises:
    ValueError: arrays of numbers cannot go through a transform.

  Attributes:
    transforms: applied in order; they share one generator.
    shape: that every image must have after them; None: any.
  """

  source: Source
  transforms: tuple[transforms_lib.Transform, ...]
  shape: tuple[int, int, int] | None = None

  def __post_init__(self):
    if self.dtype == np.uint8:
      return
    for transform in self.transforms:
      if not isinstance(transform, transforms_lib.OF_ANY_ARRAY):
        raise ValueError(
          f"{type(transform).__name__} is for pictures, and these are arrays "
          "of floats: leave it out; CentralCrop and Flip take any"
        )

  @property
  def dtype(self) -> np.dtype:
    """Type of every image."""
    return dtype_of(self.source)

  def __call__(
    self, index: int, rng: np.random.Generator | None
  ) -> tuple[np.ndarray, int | np.ndarray]:
    """Image, u8 `[h, w, 3]`, and label, or labels `[k]`.

    Raises:
      BadImageError: the image cannot be decoded.
      LabelError: the label is none of the source's classes.
      ImageShapeError: the image has not the shape that it must have.
    """
    image = self.transform(self.source.image(index), index, rng)
    return image, self.label(index)

  def transform(
    self, image: np.ndarray, index: int, rng: np.random.Generator | None
  ) -> np.ndarray:
    """The image as decoded, to what is trained or evaluated on."""
    for transform in self.transforms:
      if isinstance(transform, transforms_lib.RESIZING):
        image = transform(image, rng, self.source.mode)
      else:
        image = transform(image, rng)
    if self.shape is not None and image.shape != self.shape:
      (h, w), (first_h, first_w) = image.shape[:2], self.shape[:2]
      raise ImageShapeError(
        f"{self.source.name(index)} is {h}x{w} pixels after its transforms, "
        f"another is {first_h}x{first_w}: add a transform that sets the size, "
        f'such as dict(name="resize", size=({first_h}, {first_w}))'
      )
    return image

  def __str__(self):
    """Transforms of an image, in order, and its mode."""
    how = repr(self.transforms)
    mode = self.source.mode
    return how if mode == ANTIALIAS else f"{how} by {mode!r}"

  def label(self, index: int) -> int | np.ndarray:
    source = self.source
    label, classes = source.label(index), len(source.classes)
    # -1 fills up several labels, and is none by itself.
    lowest = -1 if np.ndim(label) else 0
    for one in np.atleast_1d(label):
      if not lowest <= one < classes:
        raise LabelError(
          f"{source.name(index)} has label {one}: with {classes} classes, "
          f"labels are 0 to {classes - 1}"
        )
    return label

  @functools.cached_property
  def no_label(self) -> int | np.ndarray:
    """Placeholder label: class 0, which has no weight, or -1s."""
    label = self.label(0)
    return np.full_like(label, -1) if np.ndim(label) else 0


def first_image(example: Example, skip: bool) -> np.ndarray:
  """The first image without random transforms; with `skip`, the first good."""
  total = len(example.source)
  for index in range(total):
    try:
      return example(index, None)[0]
    except BadImageError:
      if not skip or index == total - 1:
        raise
  raise ValueError("the source is empty")


def show(
  views: Sequence[Example], index: int
) -> tuple[tuple[np.ndarray, ...], int | np.ndarray]:
  """One image, decoded once, in each view without random transforms; label.

  Raises: as `Example`.
  """
  image = views[0].source.image(index)
  return (
    tuple(view.transform(image, index, None) for view in views),
    views[0].label(index),
  )
