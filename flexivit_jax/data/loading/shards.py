"""Parts of a source that are shuffled apart, so that a process may own some."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from flexivit_jax.data.sources.source import Source

# Processes are fewer.
MAX_PARTS = 4096


@dataclasses.dataclass(frozen=True)
class Parts:
  """Parts of a source that are shuffled apart, in turn by place.

  A process that owns some of the parts reads from their files alone.

  Attributes:
    count: 1 shuffles all as one.
    run: places in a row that are of one part.
  """

  count: int = 1
  run: int = 1

  @classmethod
  def of(
    cls, count: int, run: int, total: int, shard: tuple[int, int]
  ) -> "Parts":
    """So many parts of `total` examples, for each process its own.

    Args:
      shard: (index, count) of this process.

    Raises:
      ValueError: the processes cannot share them, or there are too few
        examples.
    """
    if count > 1 and count % shard[1]:
      raise ValueError(
        f"read_parts {count} does not divide over {shard[1]} processes: take "
        f"{-(-count // shard[1]) * shard[1]}"
      )
    if count > max(total, 1):
      raise ValueError(f"read_parts is {count}, of {total} images: take fewer")
    return cls(count, run)

  def of_place(self, place: int) -> tuple[int, int]:
    """(part, place in it)."""
    turn, at = divmod(place, self.run)
    turn, part = divmod(turn, self.count)
    return part, turn * self.run + at

  def indices(self, source: Source, part: int) -> np.ndarray | range:
    """Indices of a part's examples, which are neighbours in storage.

    Where the parts cannot be equal, they differ by one example, and the larger
    ones fall behind by one in each epoch.
    """
    total = len(source)
    if self.count == 1:
      return range(total)
    start, stop = (total * p // self.count for p in (part, part + 1))
    return source.stored_order()[start:stop]


ALL = Parts()


@functools.lru_cache(maxsize=MAX_PARTS)
def permutations(
  seed: int, total: int, part: int
) -> Callable[[int], np.ndarray]:
  """From the epoch of a part to an order of its `total` examples, i32."""

  @functools.lru_cache(maxsize=2)  # a batch may end one epoch, begin the next
  def permutation(epoch):
    # PCG64, so no stream of the transforms' generator.
    order = np.random.default_rng((seed, epoch, part)).permutation(total)
    return order.astype(np.int32)

  return permutation
