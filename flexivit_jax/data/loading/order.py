"""Order of training examples, and draws by (seed, epoch, index)."""

import dataclasses
import functools
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from flexivit_jax.data.loading.example import Example
from flexivit_jax.data.loading.shards import ALL, Parts, permutations
from flexivit_jax.data.pixels.decode import BadImageError


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


def check_same_draws(new: Mapping, old: Mapping) -> None:
  """Refuses to go on with batches that were drawn from something else.

  Raises:
    ValueError: naming what changed.
  """
  changed = [
    f"{name}: {old.get(name)!r} -> {new.get(name)!r}"
    for name in {**new, **old}
    if new.get(name) != old.get(name)
  ]
  if changed:
    raise ValueError(
      f"its batches were drawn otherwise ({'; '.join(changed)}): give the "
      "old values to resume, or start in another --workdir"
    )


def drawn_parts(order: Shuffled) -> dict:
  """Fields of `drawn_from` that batches of parts add."""
  count = order.parts.count
  return {} if count == 1 else {"read_parts": count}


def shard_rows(batch_size: int, shard: tuple[int, int]) -> range:
  """Rows of a global batch that belong to one process.

  Raises:
    ValueError: the processes cannot share them evenly.
  """
  # Contiguous, so that the global batch is the same over any number of
  # processes.
  index, count = shard
  if batch_size % count:
    raise ValueError(
      f"batch_size {batch_size} does not divide over {count} processes: "
      f"take {-(-batch_size // count) * count}"
    )
  rows = batch_size // count
  return range(index * rows, (index + 1) * rows)
