"""Images of a task as one picture."""

import math

import numpy as np
from PIL import Image

# Shortest side of one image in pixels; smaller ones are enlarged by a whole
# number, so that each of their pixels can be seen.
SIDE = 64
GAP = 4


def contact_sheet(images: np.ndarray) -> Image.Image:
  """Rows and columns of images on white.

  Args:
    images: u8 `[rows, columns, h, w, c]` of 1 or 3 channels.

  Raises:
    ValueError: they have another number of channels.
  """
  rows, columns, h, w, c = images.shape
  if c not in (1, 3):
    raise ValueError(f"images of {c} channels: only 1 or 3 can be drawn")
  times = math.ceil(SIDE / min(h, w))
  images = images.repeat(times, axis=2).repeat(times, axis=3)
  h, w = h * times + GAP, w * times + GAP
  sheet = np.full((rows * h + GAP, columns * w + GAP, 3), 255, np.uint8)
  for y in range(rows):
    for x in range(columns):
      top, left = y * h + GAP, x * w + GAP
      sheet[top : top + h - GAP, left : left + w - GAP] = images[y, x]
  return Image.fromarray(sheet)
