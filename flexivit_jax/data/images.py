"""From encoded bytes to pixels: one decode function for every source."""

import io

import numpy as np
from PIL import Image

from flexivit_jax.core.faults import Fault


class BadImageError(ValueError, Fault):
  """A file that holds no whole image; the text names it."""


def decode_rgb(encoded: bytes, name: str) -> np.ndarray:
  """Decodes an image file to u8 `[h, w, 3]` RGB.

  Args:
    encoded: the file's bytes.
    name: path or record key, for the error.

  Raises:
    BadImageError: the bytes are not a whole image; the text starts with `name`.
  """
  try:
    with Image.open(io.BytesIO(encoded)) as image:
      if image.mode.startswith("I;16"):
        # Pillow would clip at 255 instead of scaling.
        grey = np.round(np.asarray(image) / 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
      return np.asarray(image.convert("RGB"))
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
    raise BadImageError(f"{name}: cannot decode this image: {e}") from e


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
