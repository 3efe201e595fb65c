"""A source of images whose pixels tell their index, some of them bad."""

import dataclasses

import numpy as np

from flexivit_jax.data.pixels.decode import BadImageError
from flexivit_jax.data.pixels.preprocessing import ANTIALIAS


@dataclasses.dataclass(frozen=True)
class Fake:
  """`n` images of three classes; those in `bad` cannot be decoded."""

  n: int
  bad: tuple[int, ...] = ()

  classes = ("a", "b", "c")
  mode = ANTIALIAS

  @property
  def fingerprint(self):
    return f"{self.n} images"

  def __len__(self):
    return self.n

  def size(self, index):
    return 2, 2

  def image(self, index):
    if index in self.bad:
      raise BadImageError(f"{self.name(index)}: torn")
    return np.full((*self.size(index), 3), index, np.uint8)

  def label(self, index):
    return index % 3

  def name(self, index):
    return f"dir/{index}.png"
