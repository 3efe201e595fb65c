"""Each batch as a function of its number: what loads it does not matter.

So any worker, thread or process may load any batch, in any order, and a run
resumes at any batch without reading those before it.
"""

import dataclasses
import functools
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from flexivit_jax.core.faults import Fault
from flexivit_jax.data import augment
from flexivit_jax.data.images import BadImageError
from flexivit_jax.data.modes import ANTIALIAS
from flexivit_jax.data.parts import ALL, Parts, permutations
from flexivit_jax.data.sources import LabelError, Source, dtype_of


class ImageShapeError(ValueError, Fault):
  """Images of a batch differ in size."""


@dataclasses.dataclass(frozen=True)
class Example:
  """Loads one example.

  Attributes:
    transforms: applied in order; they share one generator.
    shape: that every image must have after them; None: any.
  """

  source: Source
  transforms: tuple[augment.Transform, ...]
  shape: tuple[int, int, int] | None = None

  def __post_init__(self):
    if self.dtype != np.uint8:
      refuse_of_pictures(self.transforms)

  @property
  def dtype(self) -> np.dtype:
    """Of every image."""
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
      if isinstance(transform, augment.RESIZING):
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
    """What is done to an image, in order."""
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
    """What stands where there is no image: class 0, of no weight, or -1s."""
    label = self.label(0)
    return np.full_like(label, -1) if np.ndim(label) else 0


def refuse_of_pictures(transforms: Iterable[augment.Transform]) -> None:
  """Refuses transforms that arrays of numbers cannot go through.

  Raises:
    ValueError: naming the first.
  """
  for transform in transforms:
    if not isinstance(transform, augment.OF_ANY_ARRAY):
      raise ValueError(
        f"{type(transform).__name__} is for pictures, and these are arrays of "
        "floats: leave it out; CentralCrop and Flip take any"
      )


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


@dataclasses.dataclass(frozen=True)
class Shuffled:
  """The endless examples of training: every epoch is a new permutation.

  Attributes:
    seed: of the order and of the transforms.
    skip: whether a bad image is replaced by the next good one.
    parts: each of which has epochs of its own.
    teacher: shows a teacher the same images, with the same draws; None: there
      is none, or it sees what `example` shows.
  """

  example: Example
  seed: int
  skip: bool
  parts: Parts = ALL
  teacher: Example | None = None

  def index(self, place: int) -> tuple[int, int]:
    """(epoch, index) of the example at a place of the endless order."""
    part, place = self.parts.of_place(place)
    indices = self.parts.indices(self.example.source, part)
    epoch, at = divmod(place, len(indices))
    order = permutations(self.seed, len(indices), part)(epoch)
    return epoch, int(indices[order[at]])

  def load(
    self, places: Iterable[int], bad: dict[int, str]
  ) -> Iterator[tuple[tuple[np.ndarray, ...], int, int, np.random.Generator]]:
    """Views, label, index and generator of each example.

    The views are the image and, where there is a teacher, what it sees.

    What the transforms left of the generator's stream is there for more draws
    until the next example is asked for.

    Args:
      bad: gets index and reason of each image that was replaced.
    """
    end_with_parent()
    draws = Draws(self.seed)
    for place in places:
      epoch, index = self.index(place)
      draw = functools.partial(draws, epoch)
      yield *self._load(index, draw, bad), index, draws.generator

  def _load(self, index, draw, bad):
    total = len(self.example.source)
    for _ in range(total):
      try:
        image = self.example.source.image(index)
        views = ()
        if self.teacher is not None:
          views = (self.teacher.transform(image, index, draw(index)),)
        # As the last one: the generator goes on from here.
        own = self.example.transform(image, index, draw(index))
        return (own, *views), self.example.label(index)
      except BadImageError as e:
        if not self.skip:
          raise
        bad[index] = str(e)
        index = (index + 1) % total
    raise BadImageError(f"all {total} images are bad; {bad[index]}")


@dataclasses.dataclass(frozen=True)
class TrainBatches:
  """Random access to the endless shuffled batches of one process.

  Attributes:
    batch_size: global, over all processes.
    rows: of the global batch that are this process's.
  """

  order: Shuffled
  batch_size: int
  rows: range

  def __len__(self):
    return sys.maxsize // self.batch_size

  def places(self, step: int) -> range:
    """Of this process's rows of a step, in the endless order."""
    first = step * self.batch_size
    return range(first + self.rows.start, first + self.rows.stop)

  def __getitem__(self, step: int) -> dict[str, np.ndarray]:
    bad: dict[int, str] = {}
    loaded = self.order.load(self.places(step), bad)
    views, labels, indices, _ = zip(*loaded)
    images = dict(zip(("image", "teacher_image"), map(np.stack, zip(*views))))
    return images | _others(labels, indices, bad)


@dataclasses.dataclass(frozen=True)
class EvalBatches:
  """Random access to every image once, in order, in one or more views.

  What fills up the last batch, or stands for a bad image, has index -1.

  Attributes:
    views: of one source; they must know their shapes.
    batch_size, rows: as for `TrainBatches`.
  """

  views: tuple[Example, ...]
  batch_size: int
  rows: range
  skip: bool

  @property
  def source(self) -> Source:
    return self.views[0].source

  def __len__(self):
    return -(-len(self.source) // self.batch_size)

  def __getitem__(self, step: int) -> dict[str, np.ndarray]:
    """As `TrainBatches`, with "image0", "image1", ... for the views."""
    first = step * self.batch_size
    nothing = tuple(np.zeros(view.shape, view.dtype) for view in self.views)
    empty = nothing, self.views[0].no_label
    loaded, indices, bad = [], [], {}
    for index in range(first + self.rows.start, first + self.rows.stop):
      pair = None
      if index < len(self.source):
        try:
          pair = show(self.views, index)
        except BadImageError as e:
          if not self.skip:
            raise
          bad[index] = str(e)
      loaded.append(empty if pair is None else pair)
      indices.append(-1 if pair is None else index)
    views, labels = zip(*loaded)
    images = {f"image{i}": np.stack(view) for i, view in enumerate(zip(*views))}
    return images | _others(labels, indices, bad)


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


def _others(labels, indices, bad: dict[int, str]) -> dict[str, np.ndarray]:
  """What a batch has beside its images."""
  return {
    "label": np.asarray(labels, np.int32),
    "index": np.asarray(indices, np.int32),
    **pack_bad(bad),
  }


def pack_bad(bad: Mapping[int, str]) -> dict[str, np.ndarray]:
  """Bad images as arrays, as all is that comes from a worker."""
  return {
    "bad": np.asarray(list(bad), np.int32),
    "reason": np.asarray(list(bad.values()), np.str_),
  }


def unpack_bad(loaded: Mapping[str, np.ndarray]) -> dict[int, str]:
  """Index to reason of the bad images among what was loaded."""
  return dict(zip(loaded["bad"].tolist(), loaded["reason"].tolist()))


class Draws:
  """A generator for each (epoch, index), without making one for each.

  Philox is a function of (key, counter): setting the counter's upper half
  starts another stream, of 2^128 numbers.
  """

  def __init__(self, seed: int):
    self._philox = np.random.Philox(key=seed)
    self.generator = np.random.Generator(self._philox)
    self._state = self._philox.state

  def __call__(self, epoch: int, index: int) -> np.random.Generator:
    self._state["state"]["counter"][:] = 0, 0, index, epoch
    self._philox.state = self._state
    return self.generator


@functools.cache
def end_with_parent():
  """Ends this worker when its parent is gone, killed ones too."""
  parent = multiprocessing.parent_process()
  if parent is None:
    return  # not a worker

  def wait():
    parent.join()
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()
