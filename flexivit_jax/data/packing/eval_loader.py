"""Evaluation batches of packed rows, each image once."""

import collections
import copy
import dataclasses
import functools
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence

import grain
import numpy as np

from flexivit_jax.core.tokens import Batch
from flexivit_jax.data.loading import bad_images
from flexivit_jax.data.loading.batches import unpack_bad
from flexivit_jax.data.loading.eval_loader import refuse_random
from flexivit_jax.data.loading.example import Example
from flexivit_jax.data.loading.order import shard_rows
from flexivit_jax.data.loading.stream import read_options
from flexivit_jax.data.packing import rows as rows_lib
from flexivit_jax.data.packing.cut_images import EvalImages
from flexivit_jax.data.packing.cutter import Cutter
from flexivit_jax.data.packing.loader import empty_batch, empty_row
from flexivit_jax.data.pixels import transforms as transforms_lib
from flexivit_jax.data.sources.source import Source


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
    transforms: tuple[transforms_lib.Transform, ...],
    views: Sequence[tuple[Cutter, rows_lib.Packing]],
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
          images.extend(rows_lib.split_group(group))
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
    images = rows_lib.Images(next_image, seek)
    rows = rows_lib.rows(images, packing, None)
    while taken := list(itertools.islice(rows, self._rows)):
      empty = empty_row(packing, cutter, self._images.example)
      taken += [empty] * (self._rows - len(taken))
      yield rows_lib.to_batch(taken, cutter.sizes, packing.max_images)

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
    """A loader of some of the views of these images."""
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
    return empty_batch(packing, cutter, self._rows, self._images.example)
