"""Evaluation batches of images of one size, in order, each image once."""

import copy
import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from flexivit_jax.core import resolution
from flexivit_jax.core.tokens import Batch
from flexivit_jax.data.loading import bad_images
from flexivit_jax.data.loading.batches import EvalBatches, unpack_bad
from flexivit_jax.data.loading.example import Example, first_image
from flexivit_jax.data.loading.loader import grid_batch
from flexivit_jax.data.loading.order import shard_rows
from flexivit_jax.data.loading.stream import read_options
from flexivit_jax.data.pixels import transforms as transforms_lib
from flexivit_jax.data.sources.source import Source


class EvalLoader:
  """Every image once, in order, as often as it is iterated over; decoded once
  and shown in one or more views.

  Yields (number of the view, batch). What fills up the last batch, or stands
  for a bad image, has weight 0 and index -1.

  Args:
    source, shard, on_bad_image: as for `TrainLoader`.
    views: the transforms of each view, applied in order.
    batch_size: global; this process gets its rows.

  Attributes:
    bad: index to reason of the bad images met so far.

  Raises:
    ValueError: a transform is random.
  """

  def __init__(
    self,
    source: Source,
    views: Sequence[tuple[transforms_lib.Transform, ...]],
    batch_size: int,
    *,
    shard: tuple[int, int] = (0, 1),
    on_bad_image: bad_images.OnBadImage = bad_images.ERROR,
  ):
    for transforms in views:
      refuse_random(transforms)
    rows, skip = shard_rows(batch_size, shard), on_bad_image.skip
    views = [Example(source, transforms) for transforms in views]
    views = tuple(
      dataclasses.replace(view, shape=first_image(view, skip).shape)
      for view in views
    )
    self._batches = EvalBatches(views, batch_size, rows, skip)
    self._on_bad_image = on_bad_image
    self.bad: dict[int, str] = {}

  def __iter__(self) -> Iterator[tuple[int, Batch]]:
    dataset = grain.MapDataset.source(self._batches)
    threads = min(len(self._batches), os.cpu_count() or 1)
    for batch in dataset.to_iter_dataset(read_options(threads)):
      self.bad |= unpack_bad(batch)
      self._on_bad_image.check(self.bad, len(self._batches.source))
      for view in range(len(self._batches.views)):
        yield view, grid_batch(batch, f"image{view}")

  def __len__(self) -> int:
    """Images, over all processes."""
    return len(self._batches.source)

  def only(self, views: Sequence[int]) -> "EvalLoader":
    """A loader of some of the views of these images."""
    other = copy.copy(self)
    kept = tuple(self._batches.views[view] for view in views)
    other._batches = dataclasses.replace(self._batches, views=kept)
    other.bad = {}
    return other

  def image_hw(self, view: int) -> tuple[int, int]:
    """(height, width) of every image of a view, in pixels."""
    return self._batches.views[view].shape[:2]

  def example(self, view: int) -> Batch:
    """A batch of a view's shapes, of no weight."""
    shown = self._batches.views[view]
    shape = (len(self._batches.rows), *shown.shape)
    nothing = np.full(shape[0], -1, np.int32)
    label = np.asarray(shown.no_label, np.int32)
    return grid_batch(
      {
        "image": np.broadcast_to(shown.dtype.type(0), shape),
        "label": np.broadcast_to(label, (shape[0], *label.shape)),
        "index": nothing,
      }
    )


def refuse_random(parts: Iterable[Any]) -> None:
  """Refuses transforms and resolutions that would make an evaluation random.

  Raises:
    ValueError: naming the first.
  """
  for part in parts:
    if isinstance(part, (*transforms_lib.RANDOM, *resolution.RANDOM)):
      raise ValueError(
        f"{type(part).__name__} is random: an evaluation takes what is not, "
        "such as Resize, or Native"
      )
