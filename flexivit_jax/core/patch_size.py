"""Patch-size policies: which patch size a training step, or an image, uses.

Images of one size share the patch size of their step; packed images, of any
size, have one each.
"""

import collections
import dataclasses
import math
import numbers
import zlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np


class PatchSizePolicy(Protocol):
  """Chooses the (height, width) of patches, in pixels."""

  @property
  def sizes(self) -> tuple[tuple[int, int], ...]:
    """Every size that may be chosen, each once."""

  def __call__(self, step: int, seed: int) -> tuple[int, int]:
    """Of all images of a step; a pure function, the same on every host."""

  def for_image(
    self, tokens: Callable[[tuple[int, int]], int], rng: np.random.Generator
  ) -> tuple[int, int]:
    """Of one packed image.

    Args:
      tokens: how many patches of a size the image would have.
    """


def as_hw(size) -> tuple[int, int]:
  """8 or (8, 6) as (height, width).

  Raises:
    ValueError: neither a positive whole number nor two of them.
  """
  sides = tuple(size) if isinstance(size, Sequence) else (size, size)
  if len(sides) != 2 or any(
    not isinstance(x, numbers.Integral) or isinstance(x, bool) or x < 1
    for x in sides
  ):
    raise ValueError(
      f"patch size {size!r}: give a whole number of pixels, or (height, width)"
    )
  return int(sides[0]), int(sides[1])


def parse_hw(text: str) -> tuple[int, int]:
  """ "8" as (8, 8), "8x6" as (8, 6).

  Raises:
    ValueError: it is neither.
  """
  try:
    numbers = [int(x) for x in text.split("x")]
    return as_hw(numbers[0] if len(numbers) == 1 else tuple(numbers))
  except ValueError:
    raise ValueError(f"size {text!r}: give pixels, 8 or 8x6") from None


@dataclasses.dataclass(frozen=True)
class FixedPatchSize:
  """The same size at every step: the plain ViT."""

  size: int | tuple[int, int]

  def __post_init__(self):
    as_hw(self.size)

  @property
  def sizes(self):
    return (as_hw(self.size),)

  def __call__(self, step, seed):
    del step, seed
    return as_hw(self.size)

  def for_image(self, tokens, rng):
    del tokens, rng
    return as_hw(self.size)


@dataclasses.dataclass(frozen=True)
class SampledPatchSize:
  """A size drawn for each step: FlexiViT (arXiv:2212.08013, section 3.1).

  Packed images draw one each.

  Attributes:
    choices: the sizes, each a side in pixels or (height, width).
    probabilities: one for each choice, summing to 1; None: uniform.
  """

  choices: tuple[int | tuple[int, int], ...]
  probabilities: tuple[float, ...] | None = None

  def __post_init__(self):
    sizes = self.sizes
    _check_choices(sizes)
    p = self.probabilities
    if p is None:
      return
    if len(p) != len(sizes):
      raise ValueError(
        f"probabilities has {len(p)} values for {len(sizes)} patch sizes: give "
        "one for each"
      )
    for x in p:
      if not 0 <= x <= 1:
        raise ValueError(f"probabilities has {x}: give numbers from 0 to 1")
    if abs(sum(p) - 1) > 1e-6:
      raise ValueError(
        f"probabilities sum to {sum(p):g}: give numbers that sum to 1"
      )

  @property
  def sizes(self):
    return tuple(as_hw(size) for size in self.choices)

  def __call__(self, step, seed):
    # A hash of (seed, step), not a generator with a state: any host and any
    # resumed run agrees without having drawn the earlier steps.
    entropy = [seed, zlib.crc32(b"patch_size"), step]
    bits = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return self._at(float(bits >> np.uint64(11)) * 2.0**-53)

  def for_image(self, tokens, rng):
    del tokens
    return self._at(rng.random())

  def _at(self, u):
    n = len(self.choices)
    p = self.probabilities or (1 / n,) * n
    index = np.searchsorted(np.cumsum(p), u, side="right")
    return self.sizes[min(int(index), n - 1)]


@dataclasses.dataclass(frozen=True)
class BudgetPatchSize:
  """For each packed image the smallest patches that meet a token budget.

  Attributes:
    choices: the sizes, each a side in pixels or (height, width).
    max_tokens: patches an image may have; where even the largest size leaves
      more, it is taken all the same.
  """

  choices: tuple[int | tuple[int, int], ...]
  max_tokens: int

  def __post_init__(self):
    _check_choices(self.sizes)
    if self.max_tokens < 1:
      raise ValueError(f"max_tokens is {self.max_tokens}: give at least 1")

  @property
  def sizes(self):
    return tuple(as_hw(size) for size in self.choices)

  def __call__(self, step, seed):
    raise ValueError(
      "a token budget chooses a patch size for each image, so images must be "
      "packed: give config.packing, or another config.patch_size"
    )

  def for_image(self, tokens, rng):
    del rng
    sizes = sorted(self.sizes, key=math.prod)
    fitting = (size for size in sizes if tokens(size) <= self.max_tokens)
    return next(fitting, sizes[-1])


def _check_choices(sizes):
  if not sizes:
    raise ValueError("choices is (): give at least one patch size")
  for size, count in collections.Counter(sizes).items():
    if count > 1:
      raise ValueError(
        f"choices has {size[0]}x{size[1]} {count} times: give each size once"
      )
