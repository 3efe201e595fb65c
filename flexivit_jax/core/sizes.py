"""Sizes as (height, width): parsed, printed, and checked to tile an image."""

import math
import numbers
from collections.abc import Sequence

from flexivit_jax.core.tokens import grid_shape


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


def size_name(hw: tuple[int, int]) -> str:
  """(8, 8) as "8", (8, 6) as "8x6"."""
  h, w = hw
  return str(h) if h == w else f"{h}x{w}"


class TilingError(ValueError):
  """A patch size that does not tile the images."""


def check_tiling(
  image_hw: tuple[int, int], patch_hw: tuple[int, int], stride: int = 1
) -> None:
  """Refuses a patch size that does not tile an image.

  Args:
    stride: of the model's stem.

  Raises:
    TilingError: naming the square sizes that do.
  """
  try:
    grid_shape(image_hw, patch_hw)
  except ValueError as e:
    sides = ", ".join(map(str, common_divisors(image_hw, stride))) or "none"
    of_cells = "" if stride == 1 else f"multiples of the stem's {stride} "
    raise TilingError(
      f"{e}; {of_cells or 'sides '}that divide both: {sides}"
    ) from e


def common_divisors(image_hw: tuple[int, int], stride: int = 1) -> list[int]:
  """Sides of square patches that tile an image, multiples of the stride."""
  whole = math.gcd(*image_hw)
  return [p for p in range(stride, whole + 1, stride) if whole % p == 0]
