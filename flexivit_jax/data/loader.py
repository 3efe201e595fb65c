"""Loaders: batches of one process, made by threads and worker processes."""

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping

import grain
import numpy as np
from absl import flags

from flexivit_jax.core.faults import Fault
from flexivit_jax.core.tokens import Batch
from flexivit_jax.data import augment, bad_images
from flexivit_jax.data.batches import (
  EvalBatches,
  Example,
  TrainBatches,
  first_image,
)
from flexivit_jax.data.sources import Source


class WorkerError(Fault):
  """A process that loads data ended by itself."""


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

  Attributes:
    bad: index to reason of the bad images met so far.
  """

  def __init__(
    self,
    source: Source,
    transforms: tuple[augment.Transform, ...],
    *,
    batch_size: int,
    seed: int,
    workers: int = 0,
    threads: int = 0,
    shard: tuple[int, int] = (0, 1),
    on_bad_image: bad_images.OnBadImage = bad_images.ERROR,
  ):
    batches = TrainBatches(
      Example(source, transforms),
      batch_size,
      _rows(batch_size, shard),
      seed,
      on_bad_image.skip,
    )
    # One image tells the shape of all, and whether the transforms fit.
    self._first = dataclasses.replace(batches, rows=slice(0, 1))[0]
    shape = self._first["image"].shape[1:]
    self._batches = dataclasses.replace(
      batches, example=Example(source, transforms, shape)
    )
    self._workers = workers
    self._threads = threads
    self._on_bad_image = on_bad_image
    self._step = 0
    self._iterator = None
    self.bad: dict[int, str] = {}

  def __next__(self) -> Batch:
    if self._iterator is None:
      self._iterator = iter(self._dataset())
    try:
      batch = next(self._iterator)
    except RuntimeError as e:
      if "Worker process" not in str(e):  # Grain's own words
        raise
      raise WorkerError(
        f"a data worker was lost: {e} (-9 is mostly a lack of memory: lower "
        f"config.workers, {self._workers} now, or config.threads)"
      ) from e
    self._step += 1
    self.bad |= _bad(batch)
    self._on_bad_image.check(self.bad, len(self._batches.example.source))
    return _grid_batch(batch)

  def _dataset(self):
    dataset = grain.MapDataset.source(self._batches)[self._step :]
    dataset = dataset.to_iter_dataset(_read_options(self._threads))
    if self._workers:
      # Grain reads an absl flag, which is parsed in absl's own mains only.
      if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
      dataset = dataset.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=self._workers)
      )
    return dataset

  @property
  def image_hw(self) -> tuple[int, int]:
    """(height, width) of every image, in pixels."""
    return self._batches.example.shape[:2]

  def example(self) -> Batch:
    """A batch of this loader's shapes, without starting its workers."""
    rows = self._batches.rows
    count = rows.stop - rows.start
    # One row shown as many: a batch may be large, and its shape is asked often.
    return _grid_batch(
      {
        name: np.broadcast_to(self._first[name], (count, *shape))
        for name, shape in (
          ("image", self._batches.example.shape),
          ("label", ()),
          ("index", ()),
        )
      }
    )

  def names(self, step: int) -> list[str]:
    """What the images of a step's batch are called."""
    source = self._batches.example.source
    return [source.name(index) for _, index in self._batches.indices(step)]

  def get_state(self) -> dict:
    """What `set_state` needs to go on with the next batch; JSON."""
    return {
      "next_step": self._step,
      "bad": {str(index): reason for index, reason in self.bad.items()},
      "drawn_from": self._drawn_from,
    }

  def set_state(self, state: Mapping) -> None:
    """Goes on where another loader was.

    Raises:
      ValueError: the batches before were drawn from something else.
    """
    new, old = self._drawn_from, state["drawn_from"]
    changed = [
      f"{name}: {old.get(name)!r} -> {new[name]!r}"
      for name in new
      if new[name] != old.get(name)
    ]
    if changed:
      raise ValueError(
        f"its batches were drawn otherwise ({'; '.join(changed)}): give the "
        "old values to resume, or start in another --workdir"
      )
    self.close()
    self._step = int(state["next_step"])
    self.bad = {int(index): reason for index, reason in state["bad"].items()}

  @functools.cached_property
  def _drawn_from(self) -> dict:
    # All that a batch depends on beside its number. Workers, threads and
    # processes are not among it; skipping bad images matters from the first
    # bad one on, where a run that did not skip them ended.
    batches = self._batches
    return {
      "seed": batches.seed,
      "batch_size": batches.batch_size,
      "data": batches.example.source.fingerprint,
      "transforms": repr(batches.example.transforms),
    }

  def close(self) -> None:
    """Ends the workers; the next batch would start them again."""
    if self._iterator is not None and hasattr(self._iterator, "close"):
      self._iterator.close()
    self._iterator = None


class EvalLoader:
  """Every example once, in order, as often as it is iterated over.

  What fills up the last batch, or stands for a bad image, has weight 0 and
  index -1.

  Args:
    source, transforms, shard, on_bad_image: as for `TrainLoader`.
    batch_size: global; this process gets its rows.

  Attributes:
    bad: index to reason of the bad images met so far.

  Raises:
    ValueError: a transform is random.
  """

  def __init__(
    self,
    source: Source,
    transforms: tuple[augment.Transform, ...],
    batch_size: int,
    *,
    shard: tuple[int, int] = (0, 1),
    on_bad_image: bad_images.OnBadImage = bad_images.ERROR,
  ):
    for transform in transforms:
      if isinstance(transform, augment.RANDOM):
        raise ValueError(
          f"{type(transform).__name__} is random: an evaluation takes "
          "transforms such as Resize or ResizeCrop"
        )
    rows = _rows(batch_size, shard)
    example, skip = Example(source, transforms), on_bad_image.skip
    shape = first_image(example, skip).shape
    example = dataclasses.replace(example, shape=shape)
    self._batches = EvalBatches(example, batch_size, rows, skip)
    self._on_bad_image = on_bad_image
    self.bad: dict[int, str] = {}

  def __iter__(self) -> Iterator[Batch]:
    dataset = grain.MapDataset.source(self._batches)
    threads = min(len(self._batches), os.cpu_count() or 1)
    for batch in dataset.to_iter_dataset(_read_options(threads)):
      self.bad |= _bad(batch)
      self._on_bad_image.check(self.bad, len(self._batches.example.source))
      yield _grid_batch(batch)

  @property
  def image_hw(self) -> tuple[int, int]:
    """(height, width) of every image, in pixels."""
    return self._batches.example.shape[:2]

  def example(self) -> Batch:
    """A batch of this loader's shapes, of no weight."""
    rows = self._batches.rows
    shape = (rows.stop - rows.start, *self._batches.example.shape)
    nothing = np.full(shape[0], -1, np.int32)
    return _grid_batch(
      {
        "image": np.broadcast_to(np.uint8(0), shape),
        "label": np.zeros(shape[0], np.int32),
        "index": nothing,
      }
    )


def _rows(batch_size: int, shard: tuple[int, int]) -> slice:
  # Contiguous, so that the global batch is the same over any number of
  # processes.
  index, count = shard
  if batch_size % count:
    raise ValueError(
      f"batch_size {batch_size} does not divide over {count} processes: "
      f"take {-(-batch_size // count) * count}"
    )
  rows = batch_size // count
  return slice(index * rows, (index + 1) * rows)


def _read_options(threads: int) -> grain.ReadOptions:
  # The buffer holds whole batches: one for each thread, no more.
  return grain.ReadOptions(
    num_threads=threads, prefetch_buffer_size=max(1, threads)
  )


def _bad(batch) -> dict[int, str]:
  return dict(zip(batch["bad"].tolist(), batch["reason"].tolist()))


def _grid_batch(batch) -> Batch:
  index = batch["index"][:, None]
  return Batch(
    inputs=batch["image"],
    labels=batch["label"][:, None],
    weights=(index >= 0).astype(np.float32),
    index=index,
  )
