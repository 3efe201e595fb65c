"""Images as the published FlexiViT models saw them, bit for bit.

Those were trained and evaluated through TensorFlow: its default JPEG decoder
and tf.image.resize without antialias. What it computes is done here in numpy,
in the same order of float32 operations, so that nothing of it is needed.
"""

import functools
import importlib.util

import numpy as np


def check_decoder() -> None:
  """Refuses to go on without simplejpeg.

  Raises:
    ValueError: it is not installed.
  """
  if importlib.util.find_spec("simplejpeg") is None:
    raise ValueError(
      'preprocessing "bv_compat" decodes by simplejpeg, which is missing: pip '
      'install simplejpeg, or take "antialias"'
    )


def decode_jpeg(encoded: bytes) -> np.ndarray:
  """A grey or RGB JPEG as tf.io.decode_image decodes it, u8 `[h, w, 3]`.

  With the fast, less exact cosine transform of libjpeg: Pillow's pixels differ
  from it by 1.2 grey levels in the mean. Bytes that are missing are grey.

  Raises:
    ValueError: it is no JPEG.
  """
  # Here, as only this mode needs it.
  import simplejpeg

  return simplejpeg.decode_jpeg(
    encoded,
    colorspace="RGB",
    fastdct=True,
    fastupsample=False,
    strict=False,  # a warning is none to TensorFlow, and none to Pillow
  )


def resize_bilinear(image: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
  """Bilinear without antialias, of u8 `[h, w, c]`, cut down to u8.

  As big_vision's `resize`: tf.image.resize(method="bilinear"), then a cast.
  Shrinking reads four pixels for each new one, however many lie between.
  """
  if image.shape[:2] == tuple(hw):
    return image
  (h, w), (new_h, new_w) = image.shape[:2], hw
  low, high, share = _neighbours(h, new_h)
  # Only the rows that are read.
  rows, places = np.unique(np.concatenate([low, high]), return_inverse=True)
  across = _lerp(image[rows], 1, *_neighbours(w, new_w))
  down = _lerp(across, 0, places[:new_h], places[new_h:], share)
  return np.clip(down, 0, 255).astype(np.uint8)


def _lerp(x, axis, low, high, share):
  a = np.take(x, low, axis).astype(np.float32)
  b = np.take(x, high, axis).astype(np.float32)
  b -= a
  b *= share[:, None] if axis else share[:, None, None]
  a += b
  return a


@functools.lru_cache(maxsize=256)
def _neighbours(old: int, new: int):
  """For each new place: the places below and above, and the share of above."""
  scale = np.float32(old) / np.float32(new)
  half = np.float32(0.5)
  place = (np.arange(new, dtype=np.float32) + half) * scale - half
  below = np.floor(place)
  # The share is taken before the neighbours are moved into the image.
  share = place - below
  low = np.maximum(below.astype(np.int64), 0)
  high = np.minimum(np.ceil(place).astype(np.int64), old - 1)
  return low, high, share


def resize_area_crop(
  image: np.ndarray, short: int, hw: tuple[int, int]
) -> np.ndarray:
  """Shorter side to `short`, then the central `hw`; u8 `[h, w, c]`.

  As big_vision's `resize_small(short)|central_crop(hw)`: each new pixel is the
  mean of the area that it covers, tf.image.resize(method="area"), cut down to
  u8.
  """
  h, w = image.shape[:2]
  factor = np.float32(short) / np.float32(min(h, w))
  new_h, new_w = (int(np.rint(np.float32(n) * factor)) for n in (h, w))
  top, left = (new_h - hw[0]) // 2, (new_w - hw[1]) // 2
  columns, column_weights = _areas(w, new_w, left, hw[1])
  rows, row_weights = _areas(h, new_h, top, hw[0])
  first, last = rows.min(), rows.max() + 1
  across = _weigh(image[first:last], 1, columns, column_weights)
  down = _weigh(across, 0, rows - first, row_weights)
  scale_h, scale_w = (
    np.float32(old) / np.float32(new) for old, new in ((h, new_h), (w, new_w))
  )
  down *= np.float32(1 / float(scale_h * scale_w))
  return np.clip(down, 0, 255).astype(np.uint8)


def _weigh(x, axis, places, weights):
  """Sums along an axis, one term after the other."""
  total = None
  for place, weight in zip(places, weights, strict=True):
    term = np.take(x, place, axis).astype(np.float32)
    term *= weight[:, None] if axis else weight[:, None, None]
    total = term if total is None else np.add(total, term, out=total)
  return total


@functools.lru_cache(maxsize=256)
def _areas(old: int, new: int, start: int, count: int):
  """Old places and their weights, `[taps, count]`, of some of the new ones.

  Unused taps have weight 0, which changes no sum.
  """
  scale = np.float32(old) / np.float32(new)
  numbers = np.arange(start, start + count)
  one = np.float32(1)
  begin = numbers.astype(np.float32) * scale
  end = (numbers + 1).astype(np.float32) * scale
  first = np.floor(begin).astype(np.int64)
  last = np.ceil(end).astype(np.int64) - 1
  taps = int((last - first).max()) + 1
  places = first + np.arange(taps)[:, None]
  place = places.astype(np.float32)
  starts_inside = place < begin
  ends_inside = place + one > end
  weights = np.where(
    starts_inside,
    np.where(ends_inside, scale, place + one - begin),
    np.where(ends_inside, end - place, one),
  )
  weights = np.where(places <= last, weights, np.float32(0))
  return np.clip(places, 0, old - 1), weights.astype(np.float32)
