"""The patch size whose training step needs most memory."""

import math
from collections.abc import Collection


def costliest(
  sizes: Collection[tuple[int, int] | None],
) -> tuple[int, int] | None:
  """The patch size that cuts an image into the most tokens."""
  return min(sizes, key=lambda size: math.prod(size or ()))
