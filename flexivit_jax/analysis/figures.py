"""Shared parts of all figures: colours, and maps of numbers."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from flexivit_jax.evaluation.report.figures.style import COLOURS

__all__ = ["COLOURS", "SEQUENTIAL", "SIGNED", "bare", "over", "signed_map"]

# Both are told apart by the colour-blind; SIGNED is light at 0.
SEQUENTIAL, SIGNED = "viridis", "PuOr_r"


def signed_map(axes: Axes, values: np.ndarray, largest: float) -> AxesImage:
  """Draw numbers `[rows, cols]` as a map, white at 0.

  Args:
    largest: magnitude of the darkest colours, the same for maps that share a
      colour bar.
  """
  return axes.imshow(
    values,
    cmap=SIGNED,
    vmin=-largest,
    vmax=largest,
    interpolation="nearest",
    aspect="equal",
  )


def bare(axes: Axes) -> None:
  """Leave out ticks."""
  axes.set_xticks([])
  axes.set_yticks([])


def over(axes, values, image_hw, **looks) -> None:
  """Draw values of patches `[rows, cols]` where the patches are in an image."""
  h, w = image_hw
  axes.imshow(
    values,
    extent=(-0.5, w - 0.5, h - 0.5, -0.5),
    interpolation="nearest",
    **looks,
  )
