"""From encoded bytes to pixels: one decode function for every source."""

import contextlib
import io
import re
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from PIL import (
  BmpImagePlugin,
  ExifTags,
  GifImagePlugin,
  JpegImagePlugin,
  PngImagePlugin,
  TiffImagePlugin,
  WebPImagePlugin,
)

from flexivit_jax.core.errors import Fault
from flexivit_jax.data.pixels.file_checks import CHECKS, check_hw

try:
  from PIL.AvifImagePlugin import AvifImageFile
except ImportError:  # Pillow before 11.3
  AvifImageFile = None


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
      if kind in CHECKS:
        CHECKS[kind](encoded)
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
  check_hw(image.height, image.width)
  # A tile is decoded whole, however little of it is in the image.
  if kind == "TIFF" and TiffImagePlugin.TILEWIDTH in image.tag_v2:
    check_hw(
      image.tag_v2[TiffImagePlugin.TILELENGTH],
      image.tag_v2[TiffImagePlugin.TILEWIDTH],
    )
  return image


def _decode(encoded, kind, exif_transpose, decode_jpeg):
  if kind in CHECKS:
    CHECKS[kind](encoded)
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
