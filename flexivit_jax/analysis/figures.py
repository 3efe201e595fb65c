"""What the figures of all analyses share: colours, and maps of numbers."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from flexivit_jax.evaluation.report.figures.style import COLOURS

__all__ = ["COLOURS", "SEQUENTIAL", "SIGNED", "bare", "signed_map"]

# Both are told apart by the colour-blind; SIGNED is light at 0.
SEQUENTIAL, SIGNED = "viridis", "PuOr_r"


def signed_map(axes: Axes, values: np.ndarray, largest: float) -> AxesImage:
  """Numbers `[rows, cols]` as a map, white at 0.

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
  """Leaves out ticks."""
  axes.set_xticks([])
  axes.set_yticks([])
