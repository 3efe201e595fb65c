"""Some images of a source."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from flexivit_jax.data.pixels.preprocessing import Mode
from flexivit_jax.data.sources.source import Source, dtype_of


@dataclasses.dataclass(frozen=True)
class Subset:
  """Images of a source that `indices` names, in that order.

  Attributes:
    source: opened.
    indices: i64 `[n]`.
  """

  source: Source
  indices: np.ndarray

  @property
  def classes(self) -> Sequence[str]:
    return self.source.classes

  @property
  def mode(self) -> Mode:
    return self.source.mode

  @property
  def dtype(self) -> np.dtype:
    return dtype_of(self.source)

  @property
  def fingerprint(self) -> str:
    digest = hashlib.sha256(self.source.fingerprint.encode())
    digest.update(self.indices.astype("<i8").tobytes())
    return digest.hexdigest()[:16]

  def __len__(self) -> int:
    return len(self.indices)

  def image(self, index: int) -> np.ndarray:
    return self.source.image(self._of(index))

  def label(self, index: int) -> int | np.ndarray:
    return self.source.label(self._of(index))

  def size(self, index: int) -> tuple[int, int]:
    return self.source.size(self._of(index))

  def name(self, index: int) -> str:
    return self.source.name(self._of(index))

  def stored_order(self) -> np.ndarray:
    places = np.empty(len(self.source), np.int64)
    places[np.asarray(self.source.stored_order())] = np.arange(len(self.source))
    return np.argsort(places[self.indices], kind="stable")

  def _of(self, index):
    return int(self.indices[index])
