"""Two forms of a model on the same photographs."""

from collections.abc import Mapping

import numpy as np

from flexivit_jax.core.errors import Fault
from flexivit_jax.data.pixels import resize


def photographs(image_hw: tuple[int, int], channels: int) -> np.ndarray:
  """Two real images, u8 `[2, h, w, channels]`; colours recur beyond three."""
  # Here, as it takes a second that other uses of a command need not wait.
  from sklearn import datasets

  colour = datasets.load_sample_images().images
  pixels = np.stack([resize.resize(x, image_hw) for x in colour])
  if channels == 3:
    return pixels
  repeats = -(-channels // 3)
  return np.tile(pixels, (1, 1, 1, repeats))[..., :channels]


def compare(
  before: Mapping[str, np.ndarray],
  after: Mapping[str, np.ndarray],
  *,
  image_hw: tuple[int, int],
  patch_hw: tuple[int, int],
  precise: bool,
) -> None:
  """Prints the largest differences of outputs by name.

  Args:
    precise: whether both were computed and stored in float32.

  Raises:
    Fault: they differ by more than rounding, or are not finite.
  """
  (h, w), (ph, pw) = image_hw, patch_hw
  for name, expected in before.items():
    a, b = (np.asarray(x, np.float32) for x in (expected, after[name]))
    if not np.isfinite(b).all():
      raise Fault(f"OUT gives {name} that are not finite numbers")
    worst, largest = np.abs(a - b).max(), np.abs(a).max()
    print(
      f"check: two photographs at {h}x{w} pixels, patches of {ph}x{pw}: "
      f"{name} differ by at most {worst:.2g}, of {largest:.2g}"
    )
    if not worst <= (1e-4 if precise else 3e-2) * largest:
      raise Fault(
        "that is more than rounding: OUT does not compute what IN does"
      )
