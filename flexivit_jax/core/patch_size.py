"""Patch-size policies: which patch size a training step, or an image, uses.

Images of one size share the patch size of their step; packed images, of any
size, have one each.
"""

import collections
import dataclasses
import math
import zlib
from collections.abc import Callable
from typing import Protocol

import numpy as np

from flexivit_jax.core.sizes import as_hw


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
    if self.probabilities is not None:
      _check_probabilities("probabilities", self.probabilities, len(sizes))

  @property
  def sizes(self):
    return tuple(as_hw(size) for size in self.choices)

  def __call__(self, step, seed):
    return self._at(_uniform(step, seed))

  def for_image(self, tokens, rng):
    del tokens
    return self._at(rng.random())

  def _at(self, u):
    n = len(self.choices)
    return _choose(self.sizes, self.probabilities or (1 / n,) * n, u)


@dataclasses.dataclass(frozen=True)
class ScheduledPatchSize:
  """A size drawn for each step with probabilities that move over training.

  From large patches, which are cheap, to small ones, say: choices (48, 32, 16),
  steps (0, 10_000, 20_000), probabilities ((1, 0, 0), (0, 1, 0), (0, 0, 1)).
  Every size has its program compiled before the first step, also one that is
  not drawn soon.

  Attributes:
    choices: the sizes, each a side in pixels or (height, width).
    steps: ascending; between two of them the probabilities are interpolated
      linearly, before the first and after the last they stay.
    probabilities: for each of the steps one for each choice, summing to 1.
  """

  choices: tuple[int | tuple[int, int], ...]
  steps: tuple[int, ...]
  probabilities: tuple[tuple[float, ...], ...]

  def __post_init__(self):
    sizes, steps = self.sizes, self.steps
    _check_choices(sizes)
    if not steps or list(steps) != sorted(set(steps)) or steps[0] < 0:
      raise ValueError(f"steps is {steps}: give ascending numbers of steps")
    if len(self.probabilities) != len(steps):
      raise ValueError(
        f"probabilities has {len(self.probabilities)} rows for {len(steps)} "
        "steps: give one for each"
      )
    for i, row in enumerate(self.probabilities):
      _check_probabilities(f"probabilities[{i}]", row, len(sizes))

  @property
  def sizes(self):
    return tuple(as_hw(size) for size in self.choices)

  def __call__(self, step, seed):
    return _choose(self.sizes, self.at(step), _uniform(step, seed))

  def at(self, step: int) -> tuple[float, ...]:
    """Probabilities of the choices at a step."""
    columns = zip(*self.probabilities, strict=True)
    return tuple(float(np.interp(step, self.steps, p)) for p in columns)

  def check_length(self, total_steps: int) -> None:
    """Refuses probabilities that a run ends before.

    Raises:
      ValueError: naming total_steps.
    """
    if self.steps[-1] > total_steps:
      raise ValueError(
        f"steps is {self.steps}, but total_steps is {total_steps}: the run "
        "would end before the last probabilities; give steps up to "
        f"{total_steps}, or train longer"
      )

  def for_image(self, tokens, rng):
    raise ValueError(
      "scheduled patch sizes go by the step, which packed images do not know: "
      'give config.patch_size name="sampled" or name="budget"'
    )


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


def _uniform(step, seed) -> float:
  """A number in [0, 1) for a step."""
  # A hash of (seed, step), not a generator with a state: any host and any
  # resumed run agrees without having drawn the earlier steps.
  entropy = [seed, zlib.crc32(b"patch_size"), step]
  bits = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
  return float(bits >> np.uint64(11)) * 2.0**-53


def _choose(sizes, probabilities, u):
  index = np.searchsorted(np.cumsum(probabilities), u, side="right")
  if index < len(sizes):
    return sizes[int(index)]
  # The sum is a little below 1.
  return [s for s, p in zip(sizes, probabilities, strict=True) if p][-1]


def _check_probabilities(name, p, count):
  if len(p) != count:
    raise ValueError(
      f"{name} has {len(p)} values for {count} patch sizes: give one for each"
    )
  for x in p:
    if not 0 <= x <= 1:
      raise ValueError(f"{name} has {x}: give numbers from 0 to 1")
  if abs(sum(p) - 1) > 1e-6:
    raise ValueError(f"{name} sum to {sum(p):g}: give numbers that sum to 1")


def _check_choices(sizes):
  if not sizes:
    raise ValueError("choices is (): give at least one patch size")
  for size, count in collections.Counter(sizes).items():
    if count > 1:
      raise ValueError(
        f"choices has {size[0]}x{size[1]} {count} times: give each size once"
      )
