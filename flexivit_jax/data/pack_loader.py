"""Loaders of packed images, of any size: batches of one process.

Workers decode, resize and cut; rows are filled in the main process. So rows
depend on the order of images alone, and a run resumes in the middle of a pack.
"""

import collections
import copy
import dataclasses
import functools
import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import jax
import numpy as np

from flexivit_jax.core.tokens import Batch
from flexivit_jax.data import augment, bad_images, packs
from flexivit_jax.data.batches import (
  Example,
  Shuffled,
  end_with_parent,
  pack_bad,
  unpack_bad,
)
from flexivit_jax.data.cutting import Cutter
from flexivit_jax.data.images import BadImageError
from flexivit_jax.data.loader import (
  check_same_draws,
  drawn_parts,
  refuse_random,
  shard_rows,
)
from flexivit_jax.data.parts import Parts
from flexivit_jax.data.sources import Source
from flexivit_jax.data.stream import Stream, read_options

# Images that a worker sends at once: each message costs as much as a photograph
# takes to resize.
GROUP = 16

# Batches whose images can still be named, for a message some steps later.
REMEMBERED = 4096


@dataclasses.dataclass(frozen=True)
class CutImages:
  """Random access to the endless shuffled images of one process, cut.

  They come in groups of `GROUP`; image i of the process is image
  i * count + shard of all.
  """

  order: Shuffled
  cutter: Cutter
  shard: tuple[int, int] = (0, 1)

  def __len__(self):
    return sys.maxsize // (GROUP * self.shard[1])

  def __getitem__(self, group: int) -> dict[str, np.ndarray]:
    index, count = self.shard
    first = group * GROUP * count + index
    places = range(first, first + GROUP * count, count)
    bad: dict[int, str] = {}
    source = self.order.example.source
    cut, images = [], []
    loaded = self.order.load(places, bad)
    for place, (views, label, index, rng) in zip(places, loaded, strict=True):
      (image,) = views
      plan = self.cutter.plan(image.shape[:2], rng, place, source.name(index))
      cut.append(self.cutter.cut(image, plan, rng))
      images.append((*np.atleast_1d(label), index))
    return _group(cut, images) | pack_bad(bad)


@dataclasses.dataclass(frozen=True)
class EvalImages:
  """Random access to every image once, in order, cut by one or more cutters;
  bad ones are missing."""

  example: Example
  cutters: tuple[Cutter, ...]
  skip: bool
  shard: tuple[int, int] = (0, 1)

  def __len__(self):
    return -(-len(range(*self._own)) // GROUP)

  @property
  def _own(self):
    index, count = self.shard
    return index, len(self.example.source), count

  def __getitem__(self, group: int) -> dict[str, Any]:
    """Under "views" a group of images for each cutter."""
    end_with_parent()
    bad: dict[int, str] = {}
    views = [[] for _ in self.cutters]
    images = []
    scaled_down = np.zeros(len(views), np.int32)
    for index in range(*self._own)[group * GROUP : (group + 1) * GROUP]:
      try:
        image, label = self.example(index, None)
      except BadImageError as e:
        if not self.skip:
          raise
        bad[index] = str(e)
        continue
      name = self.example.source.name(index)
      for i, cutter in enumerate(self.cutters):
        plan = cutter.plan(image.shape[:2], None, 0, name)
        scaled_down[i] += plan.scaled_down
        views[i].append(cutter.cut(image, plan, None))
      images.append((*np.atleast_1d(label), index))
    groups = tuple(
      _group(cut, images, cutter.patch_bytes)
      for cut, cutter in zip(views, self.cutters, strict=True)
    )
    return {"views": groups, "scaled_down": scaled_down, **pack_bad(bad)}


def _group(cut, images, patch_bytes: int = 0) -> dict[str, np.ndarray]:
  if not cut:  # all of them bad
    cut = [(np.zeros((0, patch_bytes), np.uint8), np.zeros((0, 5), np.int32))]
    images = np.zeros((0, 0), np.int32)
    lengths = []
  else:
    lengths = [len(cells) for _, cells in cut]
  patches, cells = zip(*cut)
  return {
    "patches": np.concatenate(patches),
    "cells": np.concatenate(cells),
    "lengths": np.asarray(lengths, np.int32),
    "images": np.asarray(images, np.int32),
  }


class PackLoader(Iterator[Batch]):
  """Endless batches of packed rows for training.

  The state is a place in the endless order of images and a number of rows, so
  a run resumes in the middle of a pack, on any number of workers and threads.
  Another number of shards fills other rows, so it cannot go on.

  Args:
    source: of the examples.
    transforms: applied in order, before an image is resized and cut.
    cutter: cuts images.
    packing: of the rows.
    batch_size: rows of a step, over all processes.
    seed: of the order, the transforms, and all that is drawn for an image.
    workers: processes that load; 0 loads in this process.
    threads: that load in each process; 0 loads when asked.
    shard: (index, count) of this process.
    on_bad_image: what to do about images that cannot be decoded.
    read_parts: as for `TrainLoader`.

  Attributes:
    bad: index to reason of the bad images met so far.
    overflowed: images left out by `overflow="drop"` so far.
  """

  def __init__(
    self,
    source: Source,
    transforms: tuple[augment.Transform, ...],
    cutter: Cutter,
    packing: packs.Packing,
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
    self.overflowed += sum(packs.overflowed(row, slots) for row in rows)
    batch = packs.to_batch(rows, self.cut_images.cutter.sizes, slots)
    self._recent[self._step] = batch.index
    self._recent.pop(self._step - REMEMBERED, None)
    self._step += 1
    return batch

  def _open(self):
    images = packs.Images(self._next_image, self._seek)
    packer = packs.rows(images, self.packing, self.cut_images.order.seed)
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
      self._group.extend(packs.split_group(group))
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
    return _empty_batch(
      self.packing,
      self.cut_images.cutter,
      self._rows_per_step,
      self.cut_images.order.example,
    )

  def names(self, step: int) -> list[str]:
    """What the images of a recent step are called; [] for one long ago."""
    index = self._recent.get(step, np.zeros(0, np.int32))
    return [self._source.name(i) for i in index[index >= 0].tolist()]

  def get_state(self) -> dict:
    """What `set_state` needs to go on with the next batch; JSON."""
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


class PackEvalLoader:
  """Every image once, packed in order, as often as it is iterated over;
  decoded once and shown in one or more views.

  Yields (number of the view, batch), the views in turn. What fills up rows and
  the last batch has weight 0 and index -1.

  Args:
    source, transforms, shard, on_bad_image: as for `PackLoader`.
    views: what cuts the images and what the rows are, of each view; nothing is
      left out of an image or a row.
    batch_size: rows of a batch, over all processes.

  Attributes:
    bad: index to reason of the bad images met so far.
    scaled_down: for each view, images of the latest iteration that were made
      smaller than their resolution is, to fit into a row or the model's
      positions.

  Raises:
    ValueError: a transform or a resolution is random.
  """

  def __init__(
    self,
    source: Source,
    transforms: tuple[augment.Transform, ...],
    views: Sequence[tuple[Cutter, packs.Packing]],
    batch_size: int,
    *,
    shard: tuple[int, int] = (0, 1),
    on_bad_image: bad_images.OnBadImage = bad_images.ERROR,
  ):
    cutters = tuple(cutter for cutter, _ in views)
    refuse_random((*transforms, *(cutter.resolution for cutter in cutters)))
    self._images = EvalImages(
      Example(source, transforms), cutters, on_bad_image.skip, shard
    )
    self._packings = [
      dataclasses.replace(packing, overflow="next") for _, packing in views
    ]
    self._rows = len(shard_rows(batch_size, shard))
    self._on_bad_image = on_bad_image
    self.bad: dict[int, str] = {}
    self.scaled_down = [0] * len(views)

  def __iter__(self) -> Iterator[tuple[int, Batch]]:
    self.scaled_down = [0] * len(self._packings)
    waiting = [collections.deque() for _ in self._packings]
    groups, read = self._groups(), [0] * len(waiting)

    def next_image(view):
      while not waiting[view]:
        for images, group in zip(waiting, next(groups), strict=True):
          images.extend(packs.split_group(group))
      read[view] += 1
      return waiting[view].popleft()

    left = {
      view: self._batches(view, functools.partial(next_image, view))
      for view in range(len(waiting))
    }
    while left:
      # The one that is behind, so that few images wait.
      view = min(left, key=read.__getitem__)
      batch = next(left[view], None)
      if batch is None:
        del left[view]
      else:
        yield view, batch

  def _batches(self, view, next_image) -> Iterator[Batch]:
    def seek(place):
      raise NotImplementedError(f"an evaluation starts anew, not at {place}")

    packing, cutter = self._packings[view], self._images.cutters[view]
    images = packs.Images(next_image, seek)
    rows = packs.rows(images, packing, None)
    while taken := list(itertools.islice(rows, self._rows)):
      empty = _empty_row(packing, cutter, self._images.example)
      taken += [empty] * (self._rows - len(taken))
      yield packs.to_batch(taken, cutter.sizes, packing.max_images)

  def _groups(self) -> Iterator[tuple[Mapping[str, np.ndarray], ...]]:
    dataset = grain.MapDataset.source(self._images)
    threads = min(len(self._images), os.cpu_count() or 1)
    for group in dataset.to_iter_dataset(read_options(threads)):
      for view, count in enumerate(group["scaled_down"].tolist()):
        self.scaled_down[view] += count
      self.bad |= unpack_bad(group)
      self._on_bad_image.check(self.bad, len(self._images.example.source))
      yield group["views"]

  def __len__(self) -> int:
    """Images, over all processes."""
    return len(self._images.example.source)

  def only(self, views: Sequence[int]) -> "PackEvalLoader":
    """The same images in these views alone."""
    other = copy.copy(self)
    cutters = tuple(self._images.cutters[view] for view in views)
    other._images = dataclasses.replace(self._images, cutters=cutters)
    other._packings = [self._packings[view] for view in views]
    other.scaled_down = [0] * len(cutters)
    other.bad = {}
    return other

  def example(self, view: int) -> Batch:
    """A batch of a view's shapes, of no weight."""
    packing, cutter = self._packings[view], self._images.cutters[view]
    return _empty_batch(packing, cutter, self._rows, self._images.example)


def _empty_row(packing: packs.Packing, cutter: Cutter, example: Example):
  labels = np.size(example.no_label)
  return packs.empty_row(packing, cutter.patch_bytes, labels)


def _empty_batch(
  packing: packs.Packing, cutter: Cutter, rows: int, example: Example
) -> Batch:
  row = _empty_row(packing, cutter, example)
  one = packs.to_batch([row], cutter.sizes, packing.max_images)
  # One row shown as many: a batch may be large, and its shape is asked often.
  return jax.tree.map(lambda x: np.broadcast_to(x, (rows, *x.shape[1:])), one)
