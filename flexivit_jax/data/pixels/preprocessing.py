"""Modes of decoding and resizing images: one of two, never a mixture.

A source that is opened in a mode decodes by it, and the transforms of its
images resize by it.
"""

import dataclasses
from typing import Any, Protocol

import numpy as np

from flexivit_jax.data.pixels import bv_compat
from flexivit_jax.data.pixels import decode as decode_lib
from flexivit_jax.data.pixels import resize as resize_lib

Box = tuple[float, float, float, float]


class Mode(Protocol):
  """Decodes and resizes images."""

  def decode(
    self, encoded: bytes, name: str, *, exif_transpose: bool = False
  ) -> np.ndarray:
    """An image file's pixels; as `decode.decode_rgb`."""

  def resize(
    self, image: np.ndarray, hw: tuple[int, int], box: Box | None = None
  ) -> np.ndarray:
    """u8 `[h, w, 3]` to (height, width).

    Args:
      box: (top, left, bottom, right) of whole pixels: the part of the image to
        take. None: all of it.
    """

  def resize_crop(
    self, image: np.ndarray, short: int, hw: tuple[int, int]
  ) -> np.ndarray:
    """Shorter side to `short` pixels, then the central (height, width)."""


@dataclasses.dataclass(frozen=True)
class Antialias:
  """Pillow's decoder, and its bilinear resize with antialias."""

  def decode(self, encoded, name, *, exif_transpose=False):
    return decode_lib.decode_rgb(encoded, name, exif_transpose=exif_transpose)

  def resize(self, image, hw, box=None):
    return resize_lib.resize(image, hw, box)

  def resize_crop(self, image, short, hw):
    """In one step: the part that the crop shows, to its size."""
    h, w = image.shape[:2]
    scale = short / min(h, w)
    # Rounding may make a crop of the whole side a little larger than it.
    crop_h, crop_w = min(h, hw[0] / scale), min(w, hw[1] / scale)
    top, left = (h - crop_h) / 2, (w - crop_w) / 2
    box = (top, left, top + crop_h, left + crop_w)
    return resize_lib.resize(image, hw, box)


ANTIALIAS = Antialias()


@dataclasses.dataclass(frozen=True)
class BvCompat:
  """Preprocessing of big_vision's published FlexiViT models, bit for bit.

  JPEGs in grey or RGB go through the fast cosine transform, all other files
  through `images.decode_rgb`. `resize` is bilinear without antialias, and
  `resize_crop` the mean over areas: big_vision's `resize(...)`, and
  `resize_small(...)|central_crop(...)`.
  """

  def decode(self, encoded, name, *, exif_transpose=False):
    return decode_lib.decode_rgb(
      encoded,
      name,
      exif_transpose=exif_transpose,
      decode_jpeg=bv_compat.decode_jpeg,
    )

  def resize(self, image, hw, box=None):
    if box is not None:
      top, left, bottom, right = box
      image = image[top:bottom, left:right]
    return bv_compat.resize_bilinear(image, hw)

  def resize_crop(self, image, short, hw):
    return bv_compat.resize_area_crop(image, short, hw)


def open_source(spec: Any, mode: Mode) -> Any:
  """A source, opened to decode and resize in a mode.

  Raises:
    ValueError: as `spec.open`, or the mode's decoder is not installed.
  """
  if isinstance(mode, BvCompat):
    bv_compat.check_decoder()
  return dataclasses.replace(spec.open(), mode=mode)
