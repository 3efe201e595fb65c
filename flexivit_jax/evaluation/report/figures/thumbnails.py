"""Thumbnails of images, and their captions."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from flexivit_jax.core.sizes import size_name
from flexivit_jax.evaluation.report import classes
from flexivit_jax.evaluation.report.figures import style
from flexivit_jax.evaluation.report.hard_images import HardImage

# Longest side in pixels.
SIDE = 112


def thumbnail(pixels: np.ndarray) -> Image.Image:
  """At most `SIDE` pixels high and wide, of u8 `[h, w, 3]`; never enlarged."""
  made = Image.fromarray(np.ascontiguousarray(pixels))
  made.thumbnail((SIDE, SIDE))
  return made


def captions(
  one: HardImage, names: Sequence[str], length: int = 60
) -> list[str]:
  """Lines: the image's class, one for each point, and its score."""

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
