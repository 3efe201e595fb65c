"""Resolution policies: the size to which an image is resized before it is cut.

A policy maps the size of an image to a whole number of patches a side. All
sizes are (height, width) in pixels.
"""

import dataclasses
import math
from typing import Protocol

import numpy as np

# Patches an image may have: what any row could hold, and int32 counts.
LARGEST_BUDGET = 2**20


class Resolution(Protocol):
  """Chooses the size of an image."""

  def __call__(
    self,
    image_hw: tuple[int, int],
    patch_hw: tuple[int, int],
    rng: np.random.Generator | None,
  ) -> tuple[int, int]:
    """(height, width) in pixels, each a whole number of patches, at least one.

    rng is None at evaluation; policies of `RANDOM` are refused there.
    """


@dataclasses.dataclass(frozen=True)
class Square:
  """`side` by `side` pixels, the aspect ratio not kept: the plain ViT."""

  side: int

  def __post_init__(self):
    _check("side", self.side, 1, 16_384, "pixels")

  def __call__(self, image_hw, patch_hw, rng):
    del image_hw, rng
    if self.side % patch_hw[0] or self.side % patch_hw[1]:
      raise ValueError(
        f"a side of {self.side} pixels is not a whole number of "
        f"{patch_hw[0]}x{patch_hw[1]} patches: give a multiple of both sides"
      )
    return self.side, self.side


@dataclasses.dataclass(frozen=True)
class Pix2Struct:
  """As many patches as `max_patches` allow, each side rounded down.

  Images are scaled up as well as down. The aspect ratio is kept up to the
  rounding (arXiv:2210.03347). In floats, as the released code: where a side
  would be a whole number of patches exactly, it may be one less.
  """

  max_patches: int

  def __post_init__(self):
    _check("max_patches", self.max_patches, 1, LARGEST_BUDGET, "patches")

  def __call__(self, image_hw, patch_hw, rng):
    del rng
    (h, w), (ph, pw) = image_hw, patch_hw
    scale = math.sqrt(self.max_patches * (ph / h) * (pw / w))
    rows, cols = math.floor(scale * h / ph), math.floor(scale * w / pw)
    return _pixels(_clipped(rows, cols, self.max_patches), patch_hw)


@dataclasses.dataclass(frozen=True)
class NaFlex:
  """The largest scale at which sides rounded up have `max_patches` at most.

  The rule of SigLIP 2's NaFlex (arXiv:2502.14786) and of timm: the scale is
  found by bisection of [1e-6, 100] to 1e-5.
  """

  max_patches: int

  def __post_init__(self):
    _check("max_patches", self.max_patches, 1, LARGEST_BUDGET, "patches")

  def __call__(self, image_hw, patch_hw, rng):
    del rng
    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
      scale = (low + high) / 2
      if math.prod(self._grid(image_hw, patch_hw, scale)) <= self.max_patches:
        low = scale
      else:
        high = scale
    return _pixels(self._grid(image_hw, patch_hw, low), patch_hw)

  def _grid(self, image_hw, patch_hw, scale):
    return tuple(
      max(1, math.ceil(side * scale / p))
      for side, p in zip(image_hw, patch_hw, strict=True)
    )


@dataclasses.dataclass(frozen=True)
class Native:
  """The image's own size, each side rounded to the nearest whole patch.

  Attributes:
    max_patches: larger images are scaled down to at most so many, as
      `Pix2Struct` does; None: the length of a row is the only limit.
  """

  max_patches: int | None = None

  def __post_init__(self):
    _check_budget(self.max_patches)

  def __call__(self, image_hw, patch_hw, rng):
    del rng
    return _rounded(image_hw, patch_hw, self.max_patches)


@dataclasses.dataclass(frozen=True)
class Sampled:
  """A resolution drawn for each image, its aspect ratio kept: NaViT
  (arXiv:2307.06304, section 3.2).

  The resolution of an image is the square root of its area. A number u of -1
  to 1 is drawn and mapped linearly to a side, or to an area, of low to high.

  Attributes:
    low, high: smallest and largest resolution, in pixels.
    by: "side": u is mapped to the resolution; "area": to its square.
    distribution: of u: "uniform" or "truncated_normal".
    mean, std: of the normal distribution before it is cut to [-1, 1]. NaViT's
      best are sides with mean -0.5 and std 1.
    max_patches: as in `Native`.
  """

  low: float
  high: float
  by: str = "side"
  distribution: str = "uniform"
  mean: float = 0.0
  std: float = 1.0
  max_patches: int | None = None

  def __post_init__(self):
    if not 1 <= self.low <= self.high <= 16_384:
      raise ValueError(
        f"low is {self.low:g} and high {self.high:g}: give 1 <= low <= high <= "
        "16384 pixels"
      )
    _check_name("by", self.by, ("side", "area"))
    _check_name(
      "distribution", self.distribution, ("uniform", "truncated_normal")
    )
    # Farther out, or narrower, hardly a draw would fall into [-1, 1].
    if not -2 <= self.mean <= 2:
      raise ValueError(f"mean is {self.mean:g}: give -2 to 2")
    if not 0.1 <= self.std <= 100:
      raise ValueError(f"std is {self.std:g}: give 0.1 to 100")
    if abs(self.mean) > 1 + 3 * self.std:
      raise ValueError(
        f"mean is {self.mean:g} and std {self.std:g}: hardly a draw falls into "
        "-1 to 1; give a mean in it"
      )
    _check_budget(self.max_patches)

  def __call__(self, image_hw, patch_hw, rng):
    power = 1 if self.by == "side" else 2
    low, high = self.low**power, self.high**power
    resolution = (low + (self._draw(rng) + 1) / 2 * (high - low)) ** (1 / power)
    scale = resolution / math.sqrt(math.prod(image_hw))
    return _rounded(image_hw, patch_hw, self.max_patches, scale)

  def _draw(self, rng):
    if self.distribution == "uniform":
      return rng.uniform(-1, 1)
    while abs(u := rng.normal(self.mean, self.std)) > 1:
      pass
    return u


RANDOM = (Sampled,)


def floor_to_budget(image_hw, patch_hw, max_patches: int) -> tuple[int, int]:
  """The size of about `max_patches` patches, never more, for any image size.

  `Pix2Struct` in whole numbers, so that a square image of 24 patches a side
  has all of its 576.
  """
  (h, w), (ph, pw) = image_hw, patch_hw
  rows = math.isqrt(max_patches * h * pw // (w * ph))
  cols = math.isqrt(max_patches * w * ph // (h * pw))
  return _pixels(_clipped(rows, cols, max_patches), patch_hw)


def within_grid(image_hw, patch_hw, grid_hw) -> tuple[int, int]:
  """A size scaled down until it has no more rows or columns than a grid.

  The aspect ratio is kept up to the rounding down to whole patches.
  """
  rows, cols = (side // p for side, p in zip(image_hw, patch_hw, strict=True))
  # As fractions (numerator, denominator): floats would lose whole patches.
  most, of = min(
    ((1, 1), (grid_hw[0], rows), (grid_hw[1], cols)),
    key=lambda ratio: ratio[0] / ratio[1],
  )
  return _pixels(
    (max(1, rows * most // of), max(1, cols * most // of)), patch_hw
  )


def _clipped(rows, cols, max_patches):
  # An image so long that a side rounds to no patch gets one; the other side
  # may then have all of them.
  return tuple(min(max(side, 1), max_patches) for side in (rows, cols))


def _rounded(image_hw, patch_hw, max_patches, scale=1.0):
  grid = tuple(
    max(1, math.floor(side * scale / p + 0.5))
    for side, p in zip(image_hw, patch_hw, strict=True)
  )
  if max_patches is not None and math.prod(grid) > max_patches:
    return floor_to_budget(image_hw, patch_hw, max_patches)
  return _pixels(grid, patch_hw)


def _pixels(grid, patch_hw):
  return grid[0] * patch_hw[0], grid[1] * patch_hw[1]


def _check_budget(max_patches):
  if max_patches is not None:
    _check("max_patches", max_patches, 1, LARGEST_BUDGET, "patches")


def _check(name, value, low, high, unit):
  if not low <= value <= high:
    raise ValueError(f"{name} is {value}: give {low} to {high} {unit}")


def _check_name(field, value, valid):
  if value not in valid:
    options = " or ".join(map(repr, valid))
    raise ValueError(f"{field} is {value!r}: give {options}")
