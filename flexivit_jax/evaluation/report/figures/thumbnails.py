"""Images in rows, each with what was said about it."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from flexivit_jax.core.sizes import size_name
from flexivit_jax.evaluation.report import classes
from flexivit_jax.evaluation.report.figures import style
from flexivit_jax.evaluation.report.hard_images import HardImage

# Longest side in pixels.
SIDE = 112
_COLUMNS = 4


def thumbnail(pixels: np.ndarray) -> Image.Image:
  """At most `SIDE` pixels high and wide, of u8 `[h, w, 3]`; never enlarged."""
  made = Image.fromarray(np.ascontiguousarray(pixels))
  made.thumbnail((SIDE, SIDE))
  return made


def draw_thumbnails(
  found: Sequence[HardImage],
  names: Sequence[str],
  image: Callable[[int], np.ndarray],
) -> Figure:
  """Four images in a row, under each its class and the predicted ones.

  Args:
    image: of an index, u8 `[h, w, 3]`.
  """
  rows = -(-len(found) // _COLUMNS)
  lines = 2 + max(len(one.answers) for one in found)
  with style.drawing():
    figure = style.new_figure(rows * (1.15 + 0.12 * lines))
    plots = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for plot, one in itertools.zip_longest(plots, found):
      if one is None:
        plot.set_axis_off()
        continue
      plot.imshow(np.asarray(thumbnail(image(one.index))))
      plot.set_anchor("S")
      plot.set(xticks=[], yticks=[])
      plot.spines[:].set_visible(False)
      plot.set_xlabel("\n".join(captions(one, names, 12)), fontsize=6.5)
    return style.settle(figure)


def captions(
  one: HardImage, names: Sequence[str], length: int = 60
) -> list[str]:
  """What was said about an image: its class, a line for each point, and what
  it was chosen by."""

  def name(label):
    return style.printable(classes.class_name(names, label), length)

  return [
    name(one.label),
    *(
      f"{size_name(point.setting.patch_hw)} px: "
      + ("right" if right else name(predicted))
      for point, predicted, right in one.answers
    ),
    f"{one.measure} {one.score:.2f}",
  ]
