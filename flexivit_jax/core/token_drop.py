"""Token drop: which share of an image's patches training leaves out.

NaViT (arXiv:2307.06304, section 3.2). Images keep a random subset of their
patches, drawn anew whenever they are seen.
"""

import dataclasses
import math
from typing import Protocol

import numpy as np


class TokenDrop(Protocol):
  """Chooses the share of an image's patches to leave out."""

  def __call__(
    self, tokens: int, rng: np.random.Generator, images_seen: int
  ) -> float:
    """At least 0 and below 1.

    Args:
      tokens: patches of the image.
      images_seen: by the whole run before this one.
    """


@dataclasses.dataclass(frozen=True)
class NoDrop:
  """Every patch is kept."""

  def __call__(self, tokens, rng, images_seen):
    del tokens, rng, images_seen
    return 0.0


@dataclasses.dataclass(frozen=True)
class Constant:
  """The same share of every image."""

  rate: float

  def __post_init__(self):
    _check_rate("rate", self.rate)

  def __call__(self, tokens, rng, images_seen):
    del tokens, rng, images_seen
    return self.rate


@dataclasses.dataclass(frozen=True)
class Beta:
  """`max` times a number of a Beta distribution, drawn for each image.

  With m = mean / max, the number has mean m and variance `spread` m (1 - m).

  Attributes:
    mean: of the rates.
    max: largest rate.
    spread: 0 to 1, NaViT's is 0.3; towards 1, images keep all or next to
      nothing.
  """

  mean: float
  max: float = 0.9
  spread: float = 0.3

  def __post_init__(self):
    _check_rate("max", self.max)
    if not 0 < self.mean < self.max:
      raise ValueError(
        f"mean is {self.mean:g} and max {self.max:g}: give 0 < mean < max"
      )
    if not 0 < self.spread < 1:
      raise ValueError(f"spread is {self.spread:g}: give 0 < spread < 1")

  def __call__(self, tokens, rng, images_seen):
    del tokens, images_seen
    mean = self.mean / self.max
    # The variance of Beta(a, b) is mean (1 - mean) / (a + b + 1).
    both = 1 / self.spread - 1
    return self.max * rng.beta(mean * both, (1 - mean) * both)


@dataclasses.dataclass(frozen=True)
class ByResolution:
  """Larger images lose more: a rate that rises linearly with their tokens.

  Drawn from a normal distribution about it, cut at two standard deviations.

  Attributes:
    rates: at the fewest and at the most tokens; descending also works.
    tokens: fewest and most; beyond them the rate stays.
    std: of the rates.
  """

  rates: tuple[float, float]
  tokens: tuple[int, int]
  std: float = 0.02

  def __post_init__(self):
    for rate in self.rates:
      _check_rate("rates", rate)
    low, high = self.tokens
    if not 1 <= low < high:
      raise ValueError(f"tokens is {self.tokens}: give 1 <= fewest < most")
    if not 0 <= self.std <= 0.5:
      raise ValueError(f"std is {self.std:g}: give 0 to 0.5")

  def __call__(self, tokens, rng, images_seen):
    del images_seen
    mean = float(np.interp(tokens, self.tokens, self.rates))
    while abs(z := rng.normal()) > 2:
      pass
    return min(max(mean + self.std * z, 0.0), MAX_RATE)


@dataclasses.dataclass(frozen=True)
class Scheduled:
  """From one rate to another over training, along a sigmoid.

  rate(n) = start + (end - start) / (1 + exp(-(n - middle) / width)), after n
  images. NaViT's best falls slowly.

  Attributes:
    start, end: rates.
    middle, width: in images: where half of the way is gone, and a quarter of
      the steepest part.
  """

  start: float
  end: float
  middle: float
  width: float

  def __post_init__(self):
    _check_rate("start", self.start)
    _check_rate("end", self.end)
    if not self.width > 0:
      raise ValueError(f"width is {self.width:g}: give more than 0 images")

  def __call__(self, tokens, rng, images_seen):
    del tokens, rng
    # tanh, as exp of a large number overflows.
    share = 0.5 * (1 + math.tanh((images_seen - self.middle) / self.width / 2))
    return self.start + (self.end - self.start) * share


# Beyond it an image of a hundred patches keeps but one.
MAX_RATE = 0.99


def _check_rate(name, rate):
  if not 0 <= rate <= MAX_RATE:
    raise ValueError(f"{name} is {rate:g}: give 0 to {MAX_RATE}")


def kept(tokens: int, rate: float, rng: np.random.Generator) -> np.ndarray:
  """A random subset of an image's patches, in order.

  Args:
    tokens: patches of the image.
    rate: share to leave out.

  Returns:
    i64 `[n]`, ascending, n = tokens (1 - rate) rounded, at least 1.
  """
  count = max(1, round(tokens * (1 - rate)))
  if count >= tokens:
    return np.arange(tokens)
  return np.sort(rng.permutation(tokens)[:count])
