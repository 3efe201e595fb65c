"""Batches as a function of their number.

Any worker, thread or process may load any batch, in any order, and a run
resumes at any batch without reading those before it.
"""

import dataclasses
import sys
from collections.abc import Mapping

import numpy as np

from flexivit_jax.data.loading.example import Example, show
from flexivit_jax.data.loading.order import Shuffled
from flexivit_jax.data.pixels.decode import BadImageError
from flexivit_jax.data.sources.source import Source


@dataclasses.dataclass(frozen=True)
class TrainBatches:
  """Random access to the endless shuffled batches of one process.

  Attributes:
    batch_size: global, over all processes.
    rows: of the global batch that are this process's.
  """

  order: Shuffled
  batch_size: int
  rows: range

  def __len__(self):
    return sys.maxsize // self.batch_size

  def places(self, step: int) -> range:
    """Places of this process's rows of a step in the endless order."""
    first = step * self.batch_size
    return range(first + self.rows.start, first + self.rows.stop)

  def __getitem__(self, step: int) -> dict[str, np.ndarray]:
    bad: dict[int, str] = {}
    loaded = self.order.load(self.places(step), bad)
    views, labels, indices, _ = zip(*loaded)
    images = dict(zip(("image", "teacher_image"), map(np.stack, zip(*views))))
    return images | _others(labels, indices, bad)


@dataclasses.dataclass(frozen=True)
class EvalBatches:
  """Random access to every image once, in order, in one or more views.

  What fills up the last batch, or stands for a bad image, has index -1.

  Attributes:
    views: of one source; they must know their shapes.
    batch_size, rows: as for `TrainBatches`.
  """

  views: tuple[Example, ...]
  batch_size: int
  rows: range
  skip: bool

  @property
  def source(self) -> Source:
    return self.views[0].source

  def __len__(self):
    return -(-len(self.source) // self.batch_size)

  def __getitem__(self, step: int) -> dict[str, np.ndarray]:
    """Arrays of a batch, with "image0", "image1", ... for the views."""
    first = step * self.batch_size
    nothing = tuple(np.zeros(view.shape, view.dtype) for view in self.views)
    empty = nothing, self.views[0].no_label
    loaded, indices, bad = [], [], {}
    for index in range(first + self.rows.start, first + self.rows.stop):
      pair = None
      if index < len(self.source):
        try:
          pair = show(self.views, index)
        except BadImageError as e:
          if not self.skip:
            raise
          bad[index] = str(e)
      loaded.append(empty if pair is None else pair)
      indices.append(-1 if pair is None else index)
    views, labels = zip(*loaded)
    images = {f"image{i}": np.stack(view) for i, view in enumerate(zip(*views))}
    return images | _others(labels, indices, bad)


def _others(labels, indices, bad: dict[int, str]) -> dict[str, np.ndarray]:
  """Arrays of a batch other than its images."""
  return {
    "label": np.asarray(labels, np.int32),
    "index": np.asarray(indices, np.int32),
    **pack_bad(bad),
  }


def pack_bad(bad: Mapping[int, str]) -> dict[str, np.ndarray]:
  """Bad images as arrays, as all is that comes from a worker."""
  return {
    "bad": np.asarray(list(bad), np.int32),
    "reason": np.asarray(list(bad.values()), np.str_),
  }


def unpack_bad(loaded: Mapping[str, np.ndarray]) -> dict[int, str]:
  """Index to reason of the bad images among what was loaded."""
  return dict(zip(loaded["bad"].tolist(), loaded["reason"].tolist()))
