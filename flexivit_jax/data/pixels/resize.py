"""Resizing of decoded images."""

import numpy as np
from PIL import Image


def resize(image: np.ndarray, hw: tuple[int, int], box=None) -> np.ndarray:
  """Antialiased bilinear resize of u8 `[h, w, 3]` to (height, width).

  Args:
    box: (top, left, bottom, right) in pixels, may be fractional: the part of
      the image to take. None: all of it.
  """
  if box is None and image.shape[:2] == tuple(hw):
    return image
  if box is not None:
    top, left, bottom, right = box
    box = (left, top, right, bottom)
  size = (hw[1], hw[0])
  resized = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box)
  return np.asarray(resized)
