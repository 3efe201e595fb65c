"""Batches: a pure function of (seed, step), whatever the number of workers."""

import dataclasses
import functools
import multiprocessing
import os
import threading
from collections.abc import Iterator

import grain
import numpy as np
from absl import flags

from flexivit_jax.core.tokens import Batch
from flexivit_jax.data import augment
from flexivit_jax.data.sources import Source


@dataclasses.dataclass(frozen=True)
class Example:
  """Loads one example; it travels to the worker processes.

  Attributes:
    transforms: applied in order; they share one generator.
    shape: that every image must have after them; None: any.
  """

  source: Source
  transforms: tuple[augment.Transform, ...]
  shape: tuple[int, int, int] | None = None

  def __call__(self, index: int, rng: np.random.Generator | None):
    _end_with_parent()
    image = self.source.image(index)
    for transform in self.transforms:
      image = transform(image, rng)
    if self.shape is not None and image.shape != self.shape:
      (h, w), (first_h, first_w) = image.shape[:2], self.shape[:2]
      raise ValueError(
        f"image {index} is {h}x{w} pixels after its transforms, another is "
        f"{first_h}x{first_w}: add a transform that sets the size, such as "
        f'dict(name="resize", size=({first_h}, {first_w}))'
      )
    return {
      "image": np.ascontiguousarray(image),
      "label": np.int32(self.source.label(index)),
      "index": np.int32(index),
    }


@functools.cache
def _end_with_parent():
  """Ends this worker when its parent is gone, killed ones too."""
  parent = multiprocessing.parent_process()
  if parent is None:
    return  # not a worker

  def wait():
    parent.join()
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()


def rows_per_process(batch_size: int, count: int) -> int:
  """This process's share of a global batch.

  Raises:
    ValueError: `count` processes cannot share it evenly.
  """
  if batch_size % count:
    raise ValueError(
      f"batch_size {batch_size} does not divide over {count} processes: "
      f"take {-(-batch_size // count) * count}"
    )
  return batch_size // count


class TrainLoader(Iterator[Batch]):
  """Endless shuffled batches of this process.

  Every epoch is a new permutation of the source. The state is the number of
  the next step, so a run resumes at once, on any number of workers.

  Args:
    source: of the examples.
    transforms: see `Example`.
    batch_size: global, over all processes.
    seed: of the order and of the transforms.
    workers: processes that load; 0 loads in this process.
    threads: that load in each process; 0 loads when asked.
    shard: (index, count) of this process.
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
  ):
    index, count = shard
    self._rows = rows_per_process(batch_size, count)
    self._batch_size = batch_size
    self._shard = slice(index, None, count)
    self._seed = seed
    self._workers = workers
    self._threads = threads
    self._step = 0
    self._iterator = None
    self._example = Example(source, transforms)
    shape = self._examples()[0]["image"].shape
    self._example = dataclasses.replace(self._example, shape=shape)

  def _examples(self):
    return (
      grain.MapDataset.range(len(self._example.source))
      .seed(self._seed)
      .shuffle()
      .repeat()
      .random_map(self._example)
    )

  def __next__(self) -> Batch:
    if self._iterator is None:
      self._iterator = iter(self._dataset())
    batch = next(self._iterator)
    self._step += 1
    return _grid_batch(batch, np.ones_like(batch["label"], bool))

  def _dataset(self):
    options = grain.ReadOptions(
      num_threads=self._threads,
      prefetch_buffer_size=max(1, 4 * self._threads),
    )
    start = self._step * self._batch_size
    dataset = self._examples()[start:][self._shard].to_iter_dataset(options)
    if self._workers:
      # Grain reads an absl flag, which is parsed in absl's own mains only.
      if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
      dataset = dataset.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=self._workers)
      )
    # Batched after the workers: before, each would batch its own share, and
    # the batches would depend on their number.
    return dataset.batch(self._rows, drop_remainder=True)

  def example(self) -> Batch:
    """A batch of this loader's shapes, without starting its workers."""
    one = self._examples()[0]
    stacked = {k: np.stack([v] * self._rows) for k, v in one.items()}
    return _grid_batch(stacked, np.ones(self._rows, bool))

  def get_state(self) -> dict[str, int]:
    """What `set_state` needs to go on with the next batch; JSON."""
    return {"next_step": self._step}

  def set_state(self, state: dict[str, int]) -> None:
    self.close()
    self._step = int(state["next_step"])

  def close(self) -> None:
    """Ends the workers; the next batch would start them again."""
    if self._iterator is not None and hasattr(self._iterator, "close"):
      self._iterator.close()
    self._iterator = None


def eval_batches(
  source: Source,
  transforms: tuple[augment.Transform, ...],
  batch_size: int,
  shard: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
  """Every example once, in order; never drops the end of the source.

  The last batch is filled up with repeats of the last example, of weight 0 and
  index -1.

  Args:
    batch_size: global; this process (index, count) = `shard` gets its rows.

  Raises:
    ValueError: a transform is random.
  """
  for transform in transforms:
    if isinstance(transform, augment.RANDOM):
      raise ValueError(
        f"{type(transform).__name__} is random: an evaluation takes transforms "
        "such as Resize or ResizeCrop"
      )
  index, count = shard
  rows = rows_per_process(batch_size, count)
  shape = Example(source, transforms)(0, None)["image"].shape
  example = Example(source, transforms, shape)
  total = len(source)
  places = np.arange(-(-total // batch_size) * batch_size)
  places = places.reshape(-1, count, rows)[:, index].ravel()

  def load(place):
    loaded = example(min(place, total - 1), None)
    return loaded | {"real": place < total}

  dataset = grain.MapDataset.source(places).map(load).to_iter_dataset()
  for batch in dataset.batch(rows):
    yield _grid_batch(batch, batch["real"])


def _grid_batch(batch, real) -> Batch:
  return Batch(
    inputs=batch["image"],
    labels=batch["label"][:, None],
    weights=real[:, None].astype(np.float32),
    index=np.where(real, batch["index"], -1)[:, None],
  )
