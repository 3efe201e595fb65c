"""Images cut to patches in groups, by worker processes."""

import dataclasses
import sys
from typing import Any

import numpy as np

from flexivit_jax.data.loading.batches import pack_bad
from flexivit_jax.data.loading.example import Example
from flexivit_jax.data.loading.order import Shuffled, end_with_parent
from flexivit_jax.data.packing.cutter import Cutter
from flexivit_jax.data.pixels.decode import BadImageError

# Images that a worker sends at once: each message costs as much as a photograph
# takes to resize.
GROUP = 16


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
