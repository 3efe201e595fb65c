"""Loaders of packed images, of any size: batches of one process.

Workers decode, resize and cut; rows are filled in the main process. So rows
depend on the order of images alone, and a run resumes in the middle of a pack.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from flexivit_jax.core.tokens import Batch
from flexivit_jax.data.loading import bad_images
from flexivit_jax.data.loading.batches import unpack_bad
from flexivit_jax.data.loading.example import Example
from flexivit_jax.data.loading.order import (
  Shuffled,
  check_same_draws,
  drawn_parts,
  shard_rows,
)
from flexivit_jax.data.loading.shards import Parts
from flexivit_jax.data.loading.stream import Stream
from flexivit_jax.data.packing import rows as rows_lib
from flexivit_jax.data.packing.cut_images import GROUP, CutImages
from flexivit_jax.data.packing.cutter import Cutter
from flexivit_jax.data.pixels import transforms as transforms_lib
from flexivit_jax.data.sources.source import Source

# Batches whose images can still be named, for a message some steps later.
REMEMBERED = 4096


class PackLoader(Iterator[Batch]):
  """Endless batches of packed rows for training.

  The state is a place in the endless order of images and a number of rows, so
  a run resumes in the middle of a pack, on any number of workers and threads.
  Another number of shards fills other rows, so it cannot go on.

  Args:
    transforms: applied in order, before an image is resized and cut.
    cutter: cuts images.
    packing: of the rows.
    batch_size: rows of a step, over all processes.
    seed: of the order, the transforms, and all that is drawn for an image.
    source, workers, threads, shard, on_bad_image, read_parts: as for
      `TrainLoader`.

  Attributes:
    bad: index to reason of the bad images met so far.
    overflowed: images left out by `overflow="drop"` so far.
  """

  def __init__(
    self,
    source: Source,
    transforms: tuple[transforms_lib.Transform, ...],
    cutter: Cutter,
    packing: rows_lib.Packing,
    *,
    batch_size: int,
    seed: int,
    workers: int = 0,
    threads: int = 0,
    shard: tuple[int, int] = (0, 1),
    on_bad_image: bad_images.OnBadImage = bad_images.ERROR,
    read_parts: int = 1,
  ):
    # A process takes every so-manieth place, and so its own of the parts.
    parts = Parts.of(read_parts, 1, len(source), shard)
    example, skip = Example(source, transforms), on_bad_image.skip
    order = Shuffled(example, seed, skip, parts)
    self.cut_images = CutImages(order, cutter, shard)
    self.packing = packing
    self._batch_size = batch_size
    self._rows_per_step = len(shard_rows(batch_size, shard))
    self._stream = Stream(self.cut_images, workers=workers, threads=threads)
    self._on_bad_image = on_bad_image
    self._group = collections.deque()
    self._skip = 0
    self._packer = None
    self._state = None
    self._step = 0
    self._recent: dict[int, np.ndarray] = {}
    self.bad: dict[int, str] = {}
    self.overflowed = 0

  def __next__(self) -> Batch:
    if self._packer is None:
      self._packer = self._open()
    slots, before = self.packing.max_images, self._packer.get_state()
    try:
      rows = [next(self._packer) for _ in range(self._rows_per_step)]
    except BaseException:
      self._state, self._packer = before, None  # as if never asked
      raise
    self.overflowed += sum(rows_lib.overflowed(row, slots) for row in rows)
    batch = rows_lib.to_batch(rows, self.cut_images.cutter.sizes, slots)
    self._recent[self._step] = batch.index
    self._recent.pop(self._step - REMEMBERED, None)
    self._step += 1
    return batch

  def _open(self):
    images = rows_lib.Images(self._next_image, self._seek)
    packer = rows_lib.rows(images, self.packing, self.cut_images.order.seed)
    if self._state is None:
      self._seek(0)
    else:
      packer.set_state(self._state)
    return packer

  def _next_image(self):
    while not self._group:
      group = next(self._stream)
      self.bad |= unpack_bad(group)
      self._on_bad_image.check(self.bad, len(self._source))
      self._group.extend(rows_lib.split_group(group))
      for _ in range(self._skip):
        self._group.popleft()
      self._skip = 0
    return self._group.popleft()

  def _seek(self, place: int):
    group, self._skip = divmod(place, GROUP)
    self._group.clear()
    self._stream.seek(group)

  @property
  def _source(self):
    return self.cut_images.order.example.source

  def example(self) -> Batch:
    """A batch of this loader's shapes, without starting its workers."""
    return empty_batch(
      self.packing,
      self.cut_images.cutter,
      self._rows_per_step,
      self.cut_images.order.example,
    )

  def names(self, step: int) -> list[str]:
    """Names of the images of a recent step; [] for one long ago."""
    index = self._recent.get(step, np.zeros(0, np.int32))
    return [self._source.name(i) for i in index[index >= 0].tolist()]

  def get_state(self) -> dict:
    """State for `set_state` to go on with the next batch; JSON."""
    return {
      "next_step": self._step,
      "packer": self._packer_state(),
      "bad": {str(index): reason for index, reason in self.bad.items()},
      "overflowed": self.overflowed,
      "drawn_from": self._drawn_from,
    }

  def _packer_state(self):
    return self._state if self._packer is None else self._packer.get_state()

  def merged(self, states: Sequence[Mapping]) -> dict:
    """The states of the loaders of all shards as one, for as many of them."""
    bad = {i: reason for state in states for i, reason in state["bad"].items()}
    own = ("packer", "overflowed")
    shards = [{name: state[name] for name in own} for state in states]
    same = {name: x for name, x in states[0].items() if name not in own}
    return {**same, "bad": bad, "shards": shards}

  def set_state(self, state: Mapping) -> None:
    """Goes on where another loader was.

    Raises:
      ValueError: the batches before were drawn from something else, or by
        another number of shards.
    """
    index, count = self.cut_images.shard
    before = state["drawn_from"]["processes"]
    if before != count:
      raise ValueError(
        f"its rows were packed by {before} processes, each of its own images, "
        f"and cannot be shared by {count}: go on with {before} that load, or "
        "start in another --workdir"
      )
    check_same_draws(self._drawn_from, state["drawn_from"])
    self.close()
    own = state["shards"][index] if count > 1 else state
    self._state = own["packer"]
    self._step = int(state["next_step"])
    self.bad = {int(index): reason for index, reason in state["bad"].items()}
    self.overflowed = int(own["overflowed"])

  @functools.cached_property
  def _drawn_from(self) -> dict:
    order, cutter = self.cut_images.order, self.cut_images.cutter
    return {
      "seed": order.seed,
      "batch_size": self._batch_size,
      "data": self._source.fingerprint,
      "transforms": repr(order.example.transforms),
      "patches": repr(cutter),
      # How the loss weighs them is no matter of what is drawn.
      "packing": repr(dataclasses.replace(self.packing, loss="mean")),
      "processes": self.cut_images.shard[1],
      **drawn_parts(order),
    }

  def close(self) -> None:
    """Ends the workers; the next batch would start them again."""
    self._state, self._packer = self._packer_state(), None
    self._group.clear()  # memory that is shared with them
    self._stream.close()


def empty_row(packing: rows_lib.Packing, cutter: Cutter, example: Example):
  labels = np.size(example.no_label)
  return rows_lib.empty_row(packing, cutter.patch_bytes, labels)


def empty_batch(
  packing: rows_lib.Packing, cutter: Cutter, rows: int, example: Example
) -> Batch:
  row = empty_row(packing, cutter, example)
  one = rows_lib.to_batch([row], cutter.sizes, packing.max_images)
  # One row shown as many: a batch may be large, and its shape is asked often.
  return jax.tree.map(lambda x: np.broadcast_to(x, (rows, *x.shape[1:])), one)
