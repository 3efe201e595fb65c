"""From encoded bytes to pixels: one decode function for every source."""

import contextlib
import io
import re
import struct
import zlib
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from PIL import (
  BmpImagePlugin,
  ExifTags,
  GifImagePlugin,
  Image,
  JpegImagePlugin,
  PngImagePlugin,
  TiffImagePlugin,
  WebPImagePlugin,
)

try:
  from PIL.AvifImagePlugin import AvifImageFile
except ImportError:  # Pillow before 11.3
  AvifImageFile = None

from flexivit_jax.core.faults import Fault

# Larger than nearly all photographs; 192 MiB as RGB.
MAX_PIXELS = 64 * 2**20

# Of what is decoded: red, green and blue.
CHANNELS = 3

# What is decoded, by how its bytes begin, whatever the file is called. The
# other formats that Pillow knows are left out: they are rare as training
# images, old, and one runs a program (Ghostscript, for EPS).
_KIND = re.compile(
  rb"(?P<JPEG>\xff\xd8\xff)"
  rb"|(?P<PNG>\x89PNG\r\n\x1a\n)"
  rb"|(?P<WebP>RIFF....WEBP)"
  rb"|(?P<GIF>GIF8[79]a)"
  rb"|(?P<BMP>BM)"
  rb"|(?P<TIFF>II[*+]\0|MM\0[*+])"
  rb"|(?P<AVIF>....ftyp(?:avi[fs]|m[is]f1))",
  re.DOTALL,
)

# The formats' own classes, not Image.open: that reads the same headers, but
# prints a DecompressionBombWarning before our limit is asked, and the ways to
# silence it (Pillow's limit, warnings.catch_warnings) are global, while
# decoding runs in threads. An MPO opens as the JPEG that its first image is.
_OPENERS = {
  "JPEG": JpegImagePlugin.JpegImageFile,
  "PNG": PngImagePlugin.PngImageFile,
  "WebP": WebPImagePlugin.WebPImageFile,
  "GIF": GifImagePlugin.GifImageFile,
  "BMP": BmpImagePlugin.BmpImageFile,
  "TIFF": TiffImagePlugin.TiffImageFile,
  "AVIF": AvifImageFile,
}

# A JPEG marker that a segment follows, or the end; within the pixels are only
# stuffed zeros and restarts (d0 to d7). libjpeg refuses what is no marker.
_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")

# EXIF orientation: (swap the axes, then flip rows, then flip columns) makes the
# stored pixels upright.
_UPRIGHT = {
  1: (False, False, False),
  2: (False, False, True),
  3: (False, True, True),
  4: (False, True, False),
  5: (True, False, False),
  6: (True, False, True),
  7: (True, True, True),
  8: (True, True, False),
}


class BadImageError(ValueError, Fault):
  """A file that holds no whole image; the text starts with its name."""


def decode_rgb(
  encoded: bytes,
  name: str,
  *,
  exif_transpose: bool = False,
  decode_jpeg: Callable[[bytes], np.ndarray] | None = None,
) -> np.ndarray:
  """Decodes an image file to u8 `[h, w, 3]` RGB.

  | the file holds | pixels |
  |---|---|
  | JPEG, MPO, PNG, WebP, GIF, BMP, TIFF, AVIF (Pillow >= 11.3) | decoded |
  | anything else, whatever its suffix | refused |
  | grey, 1 bit, palette | repeated, 0 and 255, looked up |
  | transparency of any kind | dropped, not blended: what lies below shows |
  | CMYK, YCCK (JPEG: inverted, as Adobe writes them) | white less the inks |
  | 16-bit grey | divided by 257, rounded (TIFF of 12 bits: by 4095 / 255) |
  | 16-bit colour, or grey with alpha | the upper 8 bits |
  | 32-bit integers or floats, 16 bits with a sign | refused: no stated range |
  | several frames | the first |
  | an EXIF orientation | ignored, as TensorFlow does; see `exif_transpose` |
  | a colour profile | ignored |
  | no pixels, or more than MAX_PIXELS declared | refused before allocating |
  | less than the whole image | refused |

  Damage is noticed where the format can tell: all of it in a PNG, which has
  checksums (rows that are missing under right checksums are black); a lost or
  blank end, and most garbage, in JPEG and GIF; a lost end in the others. Bytes
  changed within the pixels of a JPEG, WebP, GIF, BMP, TIFF or AVIF mostly give
  other pixels, here and in any decoder: those formats cannot tell.

  Args:
    encoded: the file's bytes.
    name: path or record key, for the error.
    exif_transpose: turn and mirror the image as its EXIF orientation says.
    decode_jpeg: what decodes JPEGs in grey or RGB, u8 `[h, w, 3]`, once their
      headers are checked; None: Pillow.

  Raises:
    BadImageError: the bytes are not a whole image that the table accepts.
  """
  with _naming(name):
    kind = _kind(encoded, len(encoded))
    return _decode(encoded, kind, exif_transpose, decode_jpeg)


def read_hw(
  file: BinaryIO, name: str, *, exif_transpose: bool = False
) -> tuple[int, int]:
  """(height, width) of what `decode_rgb` would make of a file's bytes.

  Of JPEG, PNG, BMP and TIFF it reads the headers only (all of a PNG whose
  EXIF is asked for), so pixels that are lost or damaged go unnoticed.

  Args:
    file: at its start, and seekable.
    name: path or record key, for the error.
    exif_transpose: as for `decode_rgb`.

  Raises:
    BadImageError: the headers are not those of an image that `decode_rgb`
      accepts.
  """
  with _naming(name):
    start, length = file.read(64), file.seek(0, io.SEEK_END)
    kind = _kind(start, length)
    file.seek(0)
    if kind in ("WebP", "GIF", "AVIF"):
      encoded = file.read()  # as opening them does
      if kind in _CHECKS:
        _CHECKS[kind](encoded)
      file = io.BytesIO(encoded)
    with _open(file, kind) as image:
      _check_mode(image)
      h, w = image.height, image.width
      if kind == "TIFF":
        # Not the image's own: turned by Pillow.
        h = image.tag_v2[TiffImagePlugin.IMAGELENGTH]
        w = image.tag_v2[TiffImagePlugin.IMAGEWIDTH]
      turned = exif_transpose and _upright(_orientation(image))[0]
      return (w, h) if turned else (h, w)


@contextlib.contextmanager
def _naming(name):
  try:
    yield
  # Pillow's readers let almost any exception through for damaged bytes
  # (struct.error, zlib.error, KeyError, OverflowError, AttributeError, ...),
  # and which ones changes with its version.
  except Exception as e:
    text = str(e) or type(e).__name__
    raise BadImageError(f"{name}: cannot decode this image: {text}") from e


def _kind(start, length):
  kind = _KIND.match(start)
  if kind is None:
    raise ValueError(
      f"its {length} bytes begin like none of {', '.join(_OPENERS)}"
    )
  return kind.lastgroup


def _open(file, kind):
  """An image whose pixels are not read yet, of a size that may be."""
  if _OPENERS[kind] is None:
    raise ValueError(f"this Pillow has no {kind} decoder: install pillow>=11.3")
  image = _OPENERS[kind](file)
  _check_hw(image.height, image.width)
  # A tile is decoded whole, however little of it is in the image.
  if kind == "TIFF" and TiffImagePlugin.TILEWIDTH in image.tag_v2:
    _check_hw(
      image.tag_v2[TiffImagePlugin.TILELENGTH],
      image.tag_v2[TiffImagePlugin.TILEWIDTH],
    )
  return image


def _decode(encoded, kind, exif_transpose, decode_jpeg):
  if kind in _CHECKS:
    _CHECKS[kind](encoded)
  with _open(io.BytesIO(encoded), kind) as image:
    if kind != "TIFF":
      if kind == "JPEG" and decode_jpeg and image.mode in ("L", "RGB"):
        pixels = decode_jpeg(encoded)
      else:
        pixels = _to_rgb(image, kind)
      return _turn(pixels, _orientation(image)) if exif_transpose else pixels
    # Pillow turns TIFFs by itself, and forgets how in loading. To undo it, a
    # quarter turn needs the opposite one, the others themselves.
    orientation = _orientation(image)
    pixels = _to_rgb(image, kind)
    undo = {6: 8, 8: 6}.get(orientation, orientation)
    return pixels if exif_transpose else _turn(pixels, undo)


def _orientation(image):
  return image.getexif().get(ExifTags.Base.Orientation, 1)


def _to_rgb(image, kind):
  """The pixels of an opened image, u8 `[h, w, 3]`, by the table."""
  image.load()
  if image.mode.startswith("I;16"):
    return np.repeat(_sixteen_bit_grey(image, kind)[..., None], 3, axis=-1)
  _check_mode(image)
  # Convert would print a warning about it, and drop it as well.
  image.info.pop("transparency", None)
  return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _check_mode(image):
  if image.mode in ("I", "F"):
    raise ValueError(
      f"the brightness of its pixels (mode {image.mode}) has no stated range: "
      "save it with 8 or 16 bits per channel"
    )


def _sixteen_bit_grey(image, kind):
  # Pillow's own conversion clips at 255 instead of scaling.
  grey, white = np.asarray(image).astype(np.uint32), 65_535
  if kind == "TIFF":
    if image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE) == (12,):
      white = 4095
    # White is zero: heeded by Pillow for up to 8 bits only.
    if image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0:
      grey = white - grey
  return ((grey * 255 + white // 2) // white).astype(np.uint8)


def _upright(orientation):
  return _UPRIGHT.get(orientation, _UPRIGHT[1])


def _turn(pixels, orientation):
  swap, flip_rows, flip_columns = _upright(orientation)
  if swap:
    pixels = pixels.swapaxes(0, 1)
  if flip_rows:
    pixels = pixels[::-1]
  if flip_columns:
    pixels = pixels[:, ::-1]
  return np.ascontiguousarray(pixels)


def _check_hw(height, width):
  if min(height, width) < 1:
    raise ValueError(f"it declares {height} rows of {width} pixels: no image")
  if height * width > MAX_PIXELS:
    raise ValueError(
      f"it declares {height} rows of {width} pixels, together "
      f"{height * width:,}, and the limit is {MAX_PIXELS:,}: shrink it"
    )


def _check_png(encoded):
  """Checks the checksums, which Pillow skips, and the declared size."""
  at = 8
  while True:
    length = int.from_bytes(encoded[at : at + 4], "big")
    end = at + 8 + length
    if end + 4 > len(encoded):
      raise ValueError(f"it ends within the part that starts at byte {at}")
    kind = encoded[at + 4 : at + 8]
    crc = int.from_bytes(encoded[end : end + 4], "big")
    # Upper case: needed for the pixels. Others (a comment, a date) may be bad.
    if kind[:1].isupper():
      if zlib.crc32(memoryview(encoded)[at + 4 : end]) != crc:
        raise ValueError(f"damaged: the checksum at byte {end} differs")
    if kind == b"IEND":
      break
    at = end + 4
  width, height = struct.unpack_from(">II", encoded, 16)
  _check_hw(height, width)


def _check_jpeg(encoded):
  """Follows the markers to the end: Pillow may fill up what is missing."""
  at = 2
  while marker := _JPEG_MARKER.search(encoded, at):
    at = marker.end()
    if encoded[at - 1] == 0xD9:
      return
    at += int.from_bytes(encoded[at : at + 2], "big")
  raise ValueError("it ends before its end marker")


def _check_webp(encoded):
  """Checks the declared size: opening would reserve two canvases."""
  chunk, bits = encoded[12:16], int.from_bytes(encoded[20:30], "little")
  if chunk == b"VP8X":
    width, height = (bits >> 32) % 2**24 + 1, (bits >> 56) % 2**24 + 1
  elif chunk == b"VP8L":
    width, height = (bits >> 8) % 2**14 + 1, (bits >> 22) % 2**14 + 1
  elif chunk == b"VP8 ":
    width, height = (bits >> 48) % 2**14, (bits >> 64) % 2**14
  else:
    raise ValueError(f"unknown kind of WebP: {chunk!r}")
  _check_hw(height, width)


def _check_gif(encoded):
  """Checks the declared size, and that the first frame ends.

  Opening would allocate the frame, if it is to be disposed of later.
  """
  try:
    width, height, flags = struct.unpack_from("<HHB", encoded, 6)
    at = 13 + _gif_palette(flags)
    while (code := encoded[at]) != ord(","):
      if code == ord(";"):
        raise ValueError("it holds no frame")
      at = _gif_blocks(encoded, at + 2) if code == ord("!") else at + 1
    left, top, w, h, flags = struct.unpack_from("<4HB", encoded, at + 1)
    _check_hw(h, w)
    _check_hw(max(height, top + h), max(width, left + w))
    _gif_blocks(encoded, at + 11 + _gif_palette(flags))
  except (IndexError, struct.error) as e:
    raise ValueError("it ends within its first frame") from e


def _gif_palette(flags):
  return 3 << (flags & 7) + 1 if flags & 128 else 0


def _gif_blocks(encoded, at):
  """Where a chain of blocks, each after its length, ends."""
  while encoded[at]:
    at += 1 + encoded[at]
  return at + 1


_CHECKS = {
  "PNG": _check_png,
  "JPEG": _check_jpeg,
  "WebP": _check_webp,
  "GIF": _check_gif,
}


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
