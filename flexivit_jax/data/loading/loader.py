"""Loaders of images of one size: batches of one process."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from flexivit_jax.core.tokens import Batch
from flexivit_jax.data.loading import bad_images
from flexivit_jax.data.loading.batches import TrainBatches, unpack_bad
from flexivit_jax.data.loading.example import Example
from flexivit_jax.data.loading.order import (
  Shuffled,
  check_same_draws,
  drawn_parts,
  shard_rows,
)
from flexivit_jax.data.loading.shards import Parts
from flexivit_jax.data.loading.stream import Stream
from flexivit_jax.data.pixels import transforms as transforms_lib
from flexivit_jax.data.sources.source import Source


class TrainLoader(Iterator[Batch]):
  """Endless shuffled batches of this process.

  Every epoch is a new permutation of the source. The state is the number of
  the next step, so a run resumes at once, on any number of workers, threads
  and processes.

  Args:
    source: of the examples.
    transforms: applied in order.
    batch_size: global, over all processes.
    seed: of the order and of the transforms.
    workers: processes that load; 0 loads in this process.
    threads: that load in each process; 0 loads when asked.
    shard: (index, count) of this process.
    on_bad_image: what to do about images that cannot be decoded.
    read_parts: of the source, shuffled apart, so that each process reads from
      its own; 1: none, all is shuffled as one.

  Attributes:
    bad: index to reason of the bad images met so far.
  """

  def __init__(
    self,
    source: Source,
    transforms: tuple[transforms_lib.Transform, ...],
    *,
    batch_size: int,
    seed: int,
    workers: int = 0,
    threads: int = 0,
    shard: tuple[int, int] = (0, 1),
    on_bad_image: bad_images.OnBadImage = bad_images.ERROR,
    read_parts: int = 1,
  ):
    rows = shard_rows(batch_size, shard)
    if batch_size % read_parts:
      raise ValueError(
        f"batch_size {batch_size} does not divide over read_parts "
        f"{read_parts}: take {-(-batch_size // read_parts) * read_parts}"
      )
    parts = Parts.of(read_parts, batch_size // read_parts, len(source), shard)
    example, skip = Example(source, transforms), on_bad_image.skip
    order = Shuffled(example, seed, skip, parts)
    # One image tells the shape of all, and whether the transforms fit.
    self._first = TrainBatches(order, batch_size, range(1))[0]
    shape = self._first["image"].shape[1:]
    order = dataclasses.replace(
      order, example=Example(source, transforms, shape)
    )
    self._batches = TrainBatches(order, batch_size, rows)
    self._options = {"workers": workers, "threads": threads}
    self._stream = Stream(self._batches, **self._options)
    self._on_bad_image = on_bad_image
    self.bad: dict[int, str] = {}

  def show_teacher(self, hw: tuple[int, int]) -> None:
    """Lets a teacher see the same images at another size, from now on.

    Raises:
      ValueError: as `transforms.for_another_size`.
    """
    source, shape = self._example.source, self._example.shape
    scaled = transforms_lib.for_another_size(
      self._example.transforms, shape[:2], hw
    )
    teacher = Example(source, scaled, (*hw, shape[2]))
    order = dataclasses.replace(self._batches.order, teacher=teacher)
    self._batches = dataclasses.replace(self._batches, order=order)
    self._first = dataclasses.replace(self._batches, rows=range(1))[0]
    self._stream = Stream(self._batches, **self._options)

  def __next__(self) -> Batch:
    batch = next(self._stream)
    self.bad |= unpack_bad(batch)
    self._on_bad_image.check(self.bad, len(self._example.source))
    return grid_batch(batch)

  @property
  def _example(self):
    return self._batches.order.example

  @property
  def image_hw(self) -> tuple[int, int]:
    """(height, width) of every image, in pixels."""
    return self._example.shape[:2]

  def example(self) -> Batch:
    """A batch of this loader's shapes, without starting its workers."""
    count = len(self._batches.rows)
    label = self._first["label"].shape[1:]
    shapes = {"image": self._example.shape, "label": label, "index": ()}
    if self._batches.order.teacher is not None:
      shapes["teacher_image"] = self._batches.order.teacher.shape
    # One row shown as many: a batch may be large, and its shape is asked often.
    return grid_batch(
      {
        name: np.broadcast_to(self._first[name], (count, *shape))
        for name, shape in shapes.items()
      }
    )

  def names(self, step: int) -> list[str]:
    """Names of the images of a step's batch."""
    batches = self._batches
    indices = (batches.order.index(p)[1] for p in batches.places(step))
    return [self._example.source.name(index) for index in indices]

  def get_state(self) -> dict:
    """State for `set_state` to go on with the next batch; JSON."""
    return {
      "next_step": self._stream.position,
      "bad": {str(index): reason for index, reason in self.bad.items()},
      "drawn_from": self._drawn_from,
    }

  def merged(self, states: Sequence[Mapping]) -> dict:
    """The states of the loaders of all shards, for any number of them."""
    bad = {i: reason for state in states for i, reason in state["bad"].items()}
    return {**states[0], "bad": bad}

  def set_state(self, state: Mapping) -> None:
    """Goes on where another loader was.

    Raises:
      ValueError: the batches before were drawn from something else.
    """
    check_same_draws(self._drawn_from, state["drawn_from"])
    self._stream.seek(int(state["next_step"]))
    self.bad = {int(index): reason for index, reason in state["bad"].items()}

  @functools.cached_property
  def _drawn_from(self) -> dict:
    # All that a batch depends on beside its number. Workers, threads and
    # processes are not among it; skipping bad images matters from the first
    # bad one on, where a run that did not skip them ended.
    found = {
      "seed": self._batches.order.seed,
      "batch_size": self._batches.batch_size,
      "data": self._example.source.fingerprint,
      "transforms": str(self._example),
      **drawn_parts(self._batches.order),
    }
    if self._batches.order.teacher is not None:
      found["teacher_transforms"] = str(self._batches.order.teacher)
    return found

  def close(self) -> None:
    """Ends the workers; the next batch would start them again."""
    self._stream.close()


def grid_batch(batch, image: str = "image") -> Batch:
  index = batch["index"][:, None]
  return Batch(
    inputs=batch[image],
    labels=batch["label"][:, None],
    weights=(index >= 0).astype(np.float32),
    index=index,
    teacher_inputs=batch.get("teacher_image"),
  )
