"""Checks of image files that decoders accept though they are damaged."""

import re
import struct
import zlib

# Larger than nearly all photographs; 192 MiB as RGB.
MAX_PIXELS = 64 * 2**20


# A JPEG marker that a segment follows, or the end; within the pixels are only
# stuffed zeros and restarts (d0 to d7). libjpeg refuses what is no marker.
_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")


def check_hw(height, width):
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
  check_hw(height, width)


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
  check_hw(height, width)


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
    check_hw(h, w)
    check_hw(max(height, top + h), max(width, left + w))
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


CHECKS = {
  "PNG": _check_png,
  "JPEG": _check_jpeg,
  "WebP": _check_webp,
  "GIF": _check_gif,
}
