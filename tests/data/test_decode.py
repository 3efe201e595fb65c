"""Decoding files to RGB, refusing what is none, and resizing."""

import io
import os
import pathlib
import pickle
import random
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from flexivit_jax.data.pixels import decode, file_checks, resize

ROOT = pathlib.Path(__file__).parents[2]
H, W = 12, 18
LIMIT = 67_108_864

needs_avif = pytest.mark.skipif(
  ".avif" not in Image.registered_extensions(),
  reason="AVIF comes with Pillow 11.3",
)
avif = pytest.param("AVIF", marks=needs_avif)


def encode(image, file_format, **kwargs):
  buffer = io.BytesIO()
  image.save(buffer, file_format, **kwargs)
  return buffer.getvalue()


def solid(mode, colour):
  return Image.new(mode, (W, H), colour)


def noise():
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (H, W, 3), dtype=np.uint8)


def png(width, height, depth, colour, raw, idat=None):
  """A PNG from its parts; `raw` has a filter byte before each row.

  colour: 0 grey, 2 RGB, 4 grey with alpha. `idat` replaces the compressed data:
  several parts.
  """
  header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
  parts = idat or [zlib.compress(raw, 9)]
  chunks = [(b"IHDR", header), *((b"IDAT", x) for x in parts), (b"IEND", b"")]
  return b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(data))
    + kind
    + data
    + struct.pack(">I", zlib.crc32(kind + data))
    for kind, data in chunks
  )


def tiff(width, height, bits, data, **changes):
  """An uncompressed grey TIFF of one strip; `changes`: t262=0 for a tag."""
  tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 0, 277: 1}
  tags |= {278: height, 279: len(data)}
  tags |= {int(key[1:]): value for key, value in changes.items()}
  tags = {k: v for k, v in sorted(tags.items()) if v is not None}
  start = 8 + 2 + 12 * len(tags) + 4
  for place in {273, 324} & set(tags):
    tags[place] = start
  entries = [struct.pack("<HHII", k, 4, 1, v) for k, v in tags.items()]
  directory = struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4)
  return b"II*\0" + struct.pack("<I", 8) + directory + data


def gif(width, height, disposal=0, corner=(0, 0)):
  """A GIF of one frame, larger than its canvas of one pixel.

  corner: (left, top) of the frame.
  """
  return (
    b"GIF89a"
    + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0)
    + b"\0\0\0\xff\xff\xff"
    + struct.pack("<4BHBB", 0x21, 0xF9, 4, disposal << 2 | 1, 0, 0, 0)
    + struct.pack("<c4HB", b",", *corner, width, height, 0)
    + b"\x02\x02\x4c\x01\x00;"
  )


def webp(width, height):
  """The header of a WebP that has a canvas, and nothing behind it."""
  size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
  return b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + size + bytes(48)


@pytest.mark.parametrize(
  ("image", "file_format", "rgb"),
  [
    (solid("RGB", (250, 10, 60)), "PNG", (250, 10, 60)),
    (solid("RGB", (250, 10, 60)), "JPEG", (250, 10, 60)),
    (solid("RGB", (250, 10, 60)), "WEBP", (250, 10, 60)),
    (solid("RGB", (250, 10, 60)), "BMP", (250, 10, 60)),
    (solid("RGB", (250, 10, 60)), "TIFF", (250, 10, 60)),
    pytest.param(
      solid("RGB", (250, 10, 60)), "AVIF", (250, 10, 60), marks=needs_avif
    ),
    (solid("L", 77), "PNG", (77, 77, 77)),
    (solid("L", 77), "JPEG", (77, 77, 77)),
    (solid("L", 77), "BMP", (77, 77, 77)),
    (solid("1", 1), "PNG", (255, 255, 255)),
    (solid("1", 1), "TIFF", (255, 255, 255)),
    (solid("LA", (77, 255)), "PNG", (77, 77, 77)),
    (solid("RGBA", (250, 10, 60, 255)), "PNG", (250, 10, 60)),
    (solid("RGB", (250, 10, 60)).quantize(4), "GIF", (250, 10, 60)),
    (solid("RGB", (250, 10, 60)).quantize(4), "PNG", (250, 10, 60)),
    (solid("RGB", (250, 10, 60)).quantize(4), "BMP", (250, 10, 60)),
    # Cyan ink takes red away.
    (solid("CMYK", (255, 0, 0, 0)), "JPEG", (0, 255, 255)),
    (solid("CMYK", (0, 0, 0, 255)), "JPEG", (0, 0, 0)),
    (solid("CMYK", (255, 0, 0, 0)), "TIFF", (0, 255, 255)),
  ],
)
def test_every_kind_of_file_becomes_rgb(image, file_format, rgb):
  pixels = decode.decode_rgb(encode(image, file_format), "x")
  assert pixels.shape == (H, W, 3)
  assert pixels.dtype == np.uint8
  # JPEG, WebP and AVIF round colours in YCbCr: a few of 255. The others are
  # exact.
  tolerance = 4 if file_format in ("JPEG", "WEBP", "AVIF") else 0
  np.testing.assert_allclose(
    pixels.astype(int), np.broadcast_to(rgb, pixels.shape), atol=tolerance
  )


@pytest.mark.parametrize(
  ("file_format", "kwargs"),
  [
    ("PNG", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("WEBP", {"lossless": True}),
  ],
)
def test_pixels_are_where_they_were(file_format, kwargs):
  encoded = encode(Image.fromarray(noise()), file_format, **kwargs)
  np.testing.assert_array_equal(decode.decode_rgb(encoded, "x"), noise())


@pytest.mark.parametrize("side", [1, 2])
@pytest.mark.parametrize(
  "file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", avif]
)
def test_the_smallest_images_are_images(file_format, side):
  image = Image.new("RGB", (side, side), (200, 200, 200))
  pixels = decode.decode_rgb(encode(image, file_format), "x")
  assert pixels.shape == (side, side, 3)
  # Grey survives YCbCr but for its rounding.
  np.testing.assert_allclose(pixels.astype(int), 200, atol=4)


def test_transparency_is_dropped_not_blended(recwarn):
  # Blended on anything, the invisible left half would not stay (250, 10, 60).
  clear = np.zeros((H, W), np.uint8)
  clear[:, W // 2 :] = 255
  rgba = solid("RGB", (250, 10, 60))
  rgba.putalpha(Image.fromarray(clear))
  palette = solid("RGB", (250, 10, 60)).quantize(4)
  files = [
    encode(rgba, "PNG"),
    encode(rgba, "WEBP", lossless=True, exact=True),
    encode(rgba, "TIFF"),
    encode(palette, "PNG", transparency=0),
    # A palette with an alpha for each colour.
    encode(palette, "PNG", transparency=b"\x80\x40\x20\x10"),
    encode(palette, "GIF", transparency=0),
    encode(solid("RGB", (250, 10, 60)), "PNG", transparency=(250, 10, 60)),
  ]
  for encoded in files:
    pixels = decode.decode_rgb(encoded, "x")
    assert np.unique(pixels.reshape(-1, 3), axis=0).tolist() == [[250, 10, 60]]
  assert not recwarn.list


def test_inks_are_inverted_where_adobe_inverts_them():
  # Pillow writes an Adobe marker, and inks inverted: 255 is none.
  adobe = encode(solid("CMYK", (200, 128, 128, 0)), "JPEG", quality=100)
  marker = adobe.index(b"\xff\xee\x00\x0eAdobe")
  np.testing.assert_allclose(
    decode.decode_rgb(adobe, "x")[0, 0], (55, 127, 127), atol=2
  )
  # The same bytes (55, 127, 127, 255) as luma, chroma and black (YCCK): luma 55
  # without chroma, 127 being 128 but for one, is a grey of 55 before inverting.
  ycck = bytearray(adobe)
  ycck[marker + 15] = 2
  np.testing.assert_allclose(
    decode.decode_rgb(bytes(ycck), "x")[0, 0].astype(int), 200, atol=4
  )


def test_a_stereo_photo_is_its_first_image():
  pair = [Image.fromarray(noise()), Image.fromarray(255 - noise())]
  both = encode(pair[0], "MPO", save_all=True, append_images=pair[1:])
  assert Image.open(io.BytesIO(both)).format == "MPO"
  one = encode(pair[0], "JPEG")
  np.testing.assert_array_equal(
    decode.decode_rgb(both, "x"), decode.decode_rgb(one, "x")
  )


@pytest.mark.parametrize(
  ("file_format", "kwargs"),
  [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})],
)
def test_the_first_frame_is_taken(file_format, kwargs):
  frames = [solid("RGB", (c, 0, 90)) for c in (250, 130, 10)]
  kwargs |= {"save_all": True, "append_images": frames[1:]}
  encoded = encode(frames[0], file_format, **kwargs)
  assert Image.open(io.BytesIO(encoded)).n_frames == 3
  pixels = decode.decode_rgb(encoded, "x")
  assert np.unique(pixels.reshape(-1, 3), axis=0).tolist() == [[250, 0, 90]]


DEEP = np.array([[0, 128, 129, 20_000, 40_000, 65_535]], np.uint16)
# Divided by 257: 0, 0.498, 0.502, 77.8, 155.6, 255.
SHALLOW = [0, 0, 1, 78, 156, 255]


@pytest.mark.parametrize(
  "encoded",
  [
    pytest.param(encode(Image.fromarray(DEEP), "PNG"), id="png"),
    pytest.param(encode(Image.fromarray(DEEP), "TIFF"), id="tiff"),
    pytest.param(
      encode(Image.fromarray(DEEP), "TIFF", compression="tiff_lzw"), id="lzw"
    ),
    pytest.param(
      encode(Image.frombytes("I;16B", (6, 1), DEEP.astype(">u2")), "TIFF"),
      id="big-endian",
    ),
    pytest.param(tiff(6, 1, 16, DEEP.tobytes()), id="black is zero"),
    pytest.param(
      tiff(6, 1, 16, (65_535 - DEEP).tobytes(), t262=0), id="white is zero"
    ),
  ],
)
def test_sixteen_bits_keep_their_brightness(encoded):
  pixels = decode.decode_rgb(encoded, "x")
  assert pixels.dtype == np.uint8
  np.testing.assert_array_equal(pixels, np.dstack([[SHALLOW]] * 3))


def test_twelve_bits_fill_the_range():
  # Two values of 12 bits in 3 bytes: 0x000, 0x800 and 0xfff, 0x00f.
  encoded = tiff(4, 1, 12, bytes.fromhex("000800fff00f"))
  # 2048 * 255 / 4095 = 127.53, 15 * 255 / 4095 = 0.93.
  assert decode.decode_rgb(encoded, "x")[0, :, 0].tolist() == [0, 128, 255, 1]


@pytest.mark.parametrize(
  ("colour", "channels"), [(2, 3), (4, 2), (6, 4)], ids=["RGB", "LA", "RGBA"]
)
def test_deep_colour_keeps_its_upper_byte(colour, channels):
  values = np.arange(256 * channels).reshape(2, 128, channels) * 60
  values = values.astype(">u2")
  raw = b"".join(b"\0" + row.tobytes() for row in values)
  pixels = decode.decode_rgb(png(128, 2, 16, colour, raw), "x")
  shown = values[..., :3] if channels > 2 else values[..., [0, 0, 0]]
  np.testing.assert_array_equal(pixels, shown >> 8)


@pytest.mark.parametrize(
  ("encoded", "mode"),
  [
    (encode(Image.new("F", (W, H), 0.5), "TIFF"), "F"),
    (encode(Image.new("I", (W, H), 7), "TIFF"), "I"),
    # 16 bits with a sign.
    (tiff(6, 1, 16, DEEP.tobytes(), t339=2), "I"),
  ],
)
def test_brightness_without_a_range_is_refused(encoded, mode):
  with pytest.raises(decode.BadImageError) as error:
    decode.decode_rgb(encoded, "depth.tif")
  assert str(error.value) == (
    "depth.tif: cannot decode this image: the brightness of its pixels (mode "
    f"{mode}) has no stated range: save it with 8 or 16 bits per channel"
  )


# Pixels 0 to 5, stored as 012/345, as they are to be seen.
SEEN = {
  1: "012/345",
  2: "210/543",
  3: "543/210",
  4: "345/012",
  5: "03/14/25",
  6: "30/41/52",
  7: "52/41/30",
  8: "25/14/03",
  9: "012/345",  # not defined
}


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", SEEN)
def test_orientation_is_followed_only_on_request(file_format, orientation):
  stored = np.arange(6).reshape(2, 3)
  # 8x8 blocks of one grey pass through JPEG, but for its rounding.
  grey = np.kron(stored * 50, np.ones((8, 8))).astype(np.uint8)
  image = Image.fromarray(np.dstack([grey] * 3))
  exif = Image.Exif()
  exif[0x0112] = orientation
  lossless = {"lossless": True} if file_format == "WEBP" else {}
  encoded = encode(image, file_format, exif=exif, **lossless)

  def draw(pixels):
    blocks = np.round(pixels[4::8, 4::8, 0] / 50).astype(int)
    return "/".join("".join(map(str, row)) for row in blocks)

  assert draw(decode.decode_rgb(encoded, "x")) == "012/345"
  turned = decode.decode_rgb(encoded, "x", exif_transpose=True)
  assert draw(turned) == SEEN[orientation]
  assert turned.flags.c_contiguous


KINDS = [
  pytest.param(*case, id="-".join(map(str, case[1:])))
  for case in (
    *(
      (solid(mode, 9), file_format)
      for mode, formats in {
        "RGB": ("PNG", "JPEG", "WEBP", "BMP", "TIFF"),
        "L": ("PNG", "JPEG", "BMP", "TIFF", "GIF"),
        "1": ("PNG", "TIFF"),
        "P": ("PNG", "GIF", "BMP"),
        "RGBA": ("PNG", "WEBP", "TIFF"),
        "CMYK": ("JPEG", "TIFF"),
        "I;16": ("PNG", "TIFF"),
      }.items()
      for file_format in formats
    ),
  )
]


def hw(encoded, **options):
  return decode.read_hw(io.BytesIO(encoded), "x", **options)


@pytest.mark.parametrize(("image", "file_format"), KINDS)
def test_the_size_is_that_of_the_decoded_image(image, file_format):
  encoded = encode(image, file_format)
  assert hw(encoded) == decode.decode_rgb(encoded, "x").shape[:2] == (H, W)


@needs_avif
def test_the_size_of_an_avif():
  assert hw(encode(solid("RGB", 9), "AVIF")) == (H, W)


@pytest.mark.parametrize("corner", [(0, 0), (3, 2)])
def test_the_size_of_a_gif_is_that_of_its_canvas(corner):
  encoded = gif(1, 1, corner=corner)
  assert hw(encoded) == decode.decode_rgb(encoded, "x").shape[:2]


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", SEEN)
@pytest.mark.parametrize("upright", [False, True])
def test_the_size_follows_the_orientation(file_format, orientation, upright):
  exif = Image.Exif()
  exif[0x0112] = orientation
  encoded = encode(solid("RGB", 9), file_format, exif=exif)
  pixels = decode.decode_rgb(encoded, "x", exif_transpose=upright)
  assert hw(encoded, exif_transpose=upright) == pixels.shape[:2]
  turned = upright and orientation in (5, 6, 7, 8)
  assert pixels.shape[:2] == ((W, H) if turned else (H, W))


class Counted(io.BytesIO):
  """Counts the bytes that are read."""

  count = 0

  def read(self, *arguments):
    data = super().read(*arguments)
    self.count += len(data)
    return data


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP", "TIFF"])
def test_a_size_needs_the_header_only(file_format):
  rng = np.random.default_rng(0)
  large = rng.integers(0, 256, (700, 800, 3), dtype=np.uint8)
  encoded = encode(Image.fromarray(large), file_format)
  file = Counted(encoded)
  assert decode.read_hw(file, "x") == (700, 800)
  # A buffer or two of many.
  assert file.count < 70_000 < len(encoded) / 3


@pytest.mark.parametrize(
  "encoded",
  [
    pytest.param(b"", id="empty"),
    pytest.param(b"<html>404</html>", id="html"),
    pytest.param(b"\xff\xd8\xff\xe0\x00\x10JFIF", id="jpeg cut"),
    pytest.param(encode(solid("RGB", 9), "PNG")[:20], id="png cut"),
    pytest.param(encode(solid("RGB", 9), "GIF")[:20], id="gif cut"),
    pytest.param(encode(Image.new("F", (W, H), 0.5), "TIFF"), id="floats"),
    pytest.param(png(20_000, 20_000, 8, 0, b""), id="too large"),
    pytest.param(webp(16_000, 16_000), id="too large WebP"),
    pytest.param(gif(60_000, 60_000), id="too large GIF"),
  ],
)
def test_what_has_no_size_is_a_bad_image(encoded):
  for read in (hw, lambda data: decode.decode_rgb(data, "x")):
    with pytest.raises(decode.BadImageError, match=r"^x: cannot decode this"):
      read(encoded)


def test_an_error_starts_with_the_name_and_survives_pickling():
  with pytest.raises(decode.BadImageError) as error:
    decode.decode_rgb(b"<html>404</html>", "some/a.jpg")
  assert str(error.value) == (
    "some/a.jpg: cannot decode this image: its 16 bytes begin like none of "
    "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF"
  )
  # It crosses from the loader's workers.
  copy = pickle.loads(pickle.dumps(error.value))  # noqa: S301
  assert (type(copy), str(copy)) == (decode.BadImageError, str(error.value))


@pytest.mark.parametrize(
  "file_format", ["EPS", "PCX", "ICO", "PPM", "TGA", "SGI", "DDS", "PDF"]
)
def test_other_formats_are_refused_whatever_their_name(file_format):
  encoded = encode(solid("RGB", (250, 10, 60)), file_format)
  with pytest.raises(decode.BadImageError, match=r"^a\.jpg: .* like none of "):
    decode.decode_rgb(encoded, "a.jpg")


@pytest.mark.parametrize(
  "cause",
  [
    OSError("cut"),
    SyntaxError("cut"),
    struct.error("cut"),
    zlib.error("cut"),
    KeyError("cut"),
    TypeError("cut"),
    OverflowError("cut"),
    ZeroDivisionError("cut"),
    AttributeError("cut"),
    AssertionError("cut"),
    RecursionError("cut"),
    Image.DecompressionBombError("cut"),
    MemoryError(),
  ],
  ids=lambda e: type(e).__name__,
)
def test_whatever_pillow_raises_is_told_with_the_name(cause, monkeypatch):
  def fail(file):
    raise cause

  monkeypatch.setitem(decode._OPENERS, "BMP", fail)
  encoded = encode(solid("L", 0), "BMP")
  text = r"^a\.bmp: cannot decode this image: ('?cut'?|MemoryError)$"
  with pytest.raises(decode.BadImageError, match=text) as error:
    decode.decode_rgb(encoded, "a.bmp")
  assert error.value.__cause__ is cause


def test_an_interrupt_is_no_bad_image(monkeypatch):
  def interrupt(file):
    raise KeyboardInterrupt

  monkeypatch.setitem(decode._OPENERS, "BMP", interrupt)
  with pytest.raises(KeyboardInterrupt):
    decode.decode_rgb(encode(solid("L", 0), "BMP"), "a.bmp")


def test_a_pillow_without_avif_says_so(monkeypatch):
  monkeypatch.setitem(decode._OPENERS, "AVIF", None)
  with pytest.raises(decode.BadImageError, match=r"no AVIF .* pillow>=11\.3$"):
    decode.decode_rgb(b"\0\0\0\x20ftypavif" + bytes(64), "a.avif")


@pytest.mark.parametrize(
  ("file_format", "kwargs", "unopened"),
  [
    ("PNG", {}, True),
    ("JPEG", {}, False),
    ("WEBP", {}, True),
    ("WEBP", {"lossless": True}, True),
    # EXIF makes it one with a canvas.
    ("WEBP", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0"}, True),
    ("GIF", {}, True),
    ("BMP", {}, False),
    ("TIFF", {}, False),
    pytest.param("AVIF", {}, False, marks=needs_avif),
  ],
)
def test_the_limit_is_exact(file_format, kwargs, unopened, monkeypatch):
  encoded = encode(Image.fromarray(noise()), file_format, **kwargs)
  monkeypatch.setattr(file_checks, "MAX_PIXELS", H * W)
  assert decode.decode_rgb(encoded, "x").shape == (H, W, 3)
  monkeypatch.setattr(file_checks, "MAX_PIXELS", H * W - 1)
  if unopened:
    # Opened by Pillow, it would fail with another text.
    monkeypatch.setattr(decode, "_OPENERS", dict.fromkeys(decode._OPENERS))
  with pytest.raises(decode.BadImageError) as error:
    decode.decode_rgb(encoded, "x")
  assert str(error.value) == (
    "x: cannot decode this image: it declares 12 rows of 18 pixels, together "
    "216, and the limit is 215: shrink it"
  )


def large(file_format, width, height):
  """A small file that declares a large image."""
  if file_format == "PNG":
    return png(width, height, 8, 0, bytes(100))
  if file_format == "WEBP":
    return webp(width, height)
  if file_format == "GIF":
    return gif(width, height)
  if file_format == "GIF corner":
    return gif(1, 1, corner=(width - 1, height - 1))
  if file_format == "TIFF":
    return tiff(width, height, 8, bytes(100))
  if file_format == "TIFF tile":
    none = dict.fromkeys(("t273", "t278", "t279"))
    tile = {"t322": width, "t323": height, "t324": 0, "t325": 100}
    return tiff(16, 16, 8, bytes(100), **none, **tile)
  encoded = bytearray(encode(solid("RGB", (250, 10, 60)), file_format))
  if file_format == "BMP":
    encoded[18:26] = struct.pack("<ii", width, height)
  if file_format == "JPEG":
    at = encoded.index(b"\xff\xc0") + 5
    encoded[at : at + 4] = struct.pack(">HH", height, width)
  if file_format == "AVIF":
    at = encoded.index(b"ispe") + 8
    encoded[at : at + 8] = struct.pack(">II", width, height)
  return bytes(encoded)


SIZED = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "TIFF tile", avif]


@pytest.mark.parametrize("file_format", [*SIZED, "GIF corner"])
def test_a_large_image_is_refused_without_a_warning(file_format, recwarn):
  # Pillow prints a DecompressionBombWarning from 89 million pixels, and raises
  # from 179 million.
  encoded = large(file_format, 9000, 12_000)
  assert (
    file_checks.MAX_PIXELS == LIMIT < 89_000_000 < 9000 * 12_000 < 179_000_000
  )
  with pytest.raises(decode.BadImageError) as error:
    decode.decode_rgb(encoded, "some/a.jpg")
  assert str(error.value) == (
    "some/a.jpg: cannot decode this image: it declares 12000 rows of 9000 "
    "pixels, together 108,000,000, and the limit is 67,108,864: shrink it"
  )
  assert not recwarn.list


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("file_format", [x for x in SIZED if x != "WEBP"])
def test_an_image_without_pixels_is_refused(file_format, size):
  # A WebP cannot say 0: it stores the size less one.
  text = "^x: cannot decode this image: "
  if file_format in ("PNG", "GIF"):
    text += f"it declares {size[1]} rows of {size[0]} pixels: no image$"
  with pytest.raises(decode.BadImageError, match=text):
    decode.decode_rgb(large(file_format, *size), "x")


PEAKS = """
import pathlib, sys
import numpy as np
from flexivit_jax.data.pixels import decode

def peaks():
  # Not ru_maxrss, which begins with what the parent process had.
  status = pathlib.Path("/proc/self/status").read_text()
  return [int(status.split(f"{x}:")[1].split()[0]) / 2**10
          for x in ("VmHWM", "VmPeak")]

folder = pathlib.Path(sys.argv[1])
decode.decode_rgb((folder / "one.png").read_bytes(), "one.png")
before = peaks()
for path in sorted(folder.glob("bomb*")):
  try:
    decode.decode_rgb(path.read_bytes(), path.name)
  except images.BadImageError as e:
    print(e)
after = peaks()
held = np.ones(64 * 2**20, np.uint8)
print(*(b - a for a, b in zip(before, after)), peaks()[0] - after[0])
"""


@pytest.mark.skipif(
  not os.path.exists("/proc/self/status"), reason="measured as Linux does"
)
def test_a_bomb_costs_no_memory(tmp_path):
  one = png(1, 1, 8, 0, bytes(2))
  bombs = {
    # 20,000 rows of a filter byte and 20,000 bits, a byte each when decoded.
    "bomb.png": png(20_000, 20_000, 1, 0, bytes(20_000 * 2501)),
    # 144 million pixels, which Pillow would fill in opening it.
    "bomb.gif": gif(12_000, 12_000, disposal=2),
    # 2 GiB, which it would reserve.
    "bomb.webp": webp(16_000, 16_000),
  }
  assert len(bombs["bomb.png"]) < 50_000
  for name, encoded in (bombs | {"one.png": one}).items():
    (tmp_path / name).write_bytes(encoded)
  done = subprocess.run(  # noqa: S603
    [sys.executable, "-c", PEAKS, str(tmp_path)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  *refused, last = done.stdout.splitlines()
  assert [x.split(":")[0] for x in refused] == sorted(bombs)
  assert all("the limit is 67,108,864" in x for x in refused)
  resident, reserved, control = map(float, last.split())
  # MiB: the file itself and Python's own heap; the bombs are 137 and more.
  assert resident < 30
  assert reserved < 60
  # The measure sees 64 MiB that are there.
  assert control > 50


def test_checksums_that_matter_are_compared():
  # Pillow does not look at those of pixels.
  encoded = bytearray(png(2, 1, 8, 0, b"\0\x10\x20"))
  at = encoded.index(b"IEND") - 8
  encoded[at] ^= 1
  assert Image.open(io.BytesIO(encoded)).convert("L").getpixel((1, 0)) == 0x20
  text = (
    f"^x: cannot decode this image: damaged: the checksum at byte {at} diff"
  )
  with pytest.raises(decode.BadImageError, match=text):
    decode.decode_rgb(bytes(encoded), "x")
  # A comment at the end may be damaged.
  encoded[at] ^= 1
  comment = b"\0\0\0\x03tEXta\0b" + b"none"
  encoded[at + 4 : at + 4] = comment
  assert decode.decode_rgb(bytes(encoded), "x")[0, :, 0].tolist() == [16, 32]


def test_a_jpeg_has_an_end():
  # Blank from the middle on, and still decoded by Pillow.
  encoded = encode(big_noise(), "JPEG")
  middle = (encoded.index(b"\xff\xda") + len(encoded)) // 2
  blank = encoded[:middle] + bytes(4000)
  assert Image.open(io.BytesIO(blank)).convert("RGB").size == (36, 24)
  text = "^x: cannot decode this image: it ends before its end marker$"
  with pytest.raises(decode.BadImageError, match=text):
    decode.decode_rgb(blank, "x")
  # What follows the end does not matter, nor does an end within a comment.
  comment = b"\xff\xfe\0\x06\xff\xd9\xff\xd9"
  padded = encoded[:2] + comment + encoded[2:] + bytes(4000)
  assert decode.decode_rgb(padded, "x").shape == (24, 36, 3)
  with pytest.raises(decode.BadImageError, match=text):
    decode.decode_rgb(blank[:2] + comment + blank[2:], "x")


def test_a_gif_has_an_end():
  encoded = encode(big_noise(), "GIF")
  assert encoded.endswith(b"\0;")
  decode.decode_rgb(encoded[:-1], "x")
  text = "^x: cannot decode this image: it ends within its first frame$"
  with pytest.raises(decode.BadImageError, match=text):
    decode.decode_rgb(encoded[:-2], "x")


def big_noise():
  rng = np.random.default_rng(1)
  return Image.fromarray(rng.integers(0, 256, (24, 36, 3), dtype=np.uint8))


def split_png():
  """A PNG whose pixels lie in many chunks."""
  rows = np.asarray(big_noise())
  data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows), 9)
  parts = [data[i : i + 200] for i in range(0, len(data), 200)]
  return png(36, 24, 8, 2, b"", parts)


WHOLE = {
  "PNG": split_png(),
  "JPEG": encode(big_noise(), "JPEG"),
  "progressive JPEG": encode(big_noise(), "JPEG", progressive=True),
  "WebP": encode(big_noise(), "WEBP"),
  "lossless WebP": encode(big_noise(), "WEBP", lossless=True),
  "GIF": encode(big_noise(), "GIF"),
  "BMP": encode(big_noise(), "BMP"),
  "TIFF": encode(big_noise(), "TIFF"),
  "LZW TIFF": encode(big_noise(), "TIFF", compression="tiff_lzw"),
}
if ".avif" in Image.registered_extensions():
  WHOLE["AVIF"] = encode(big_noise(), "AVIF", speed=10)


def cut_short(whole, rng):
  return whole[: rng.randrange(len(whole))]


def blank_end(whole, rng):
  # As after a crash of the machine that wrote it.
  keep = rng.randrange(len(whole) // 3, len(whole) * 9 // 10)
  return whole[:keep] + bytes(len(whole) - keep)


def random_end(whole, rng):
  keep = rng.randrange(len(whole) // 3, len(whole) * 9 // 10)
  return whole[:keep] + rng.randbytes(len(whole) - keep)


def damaged_header(whole, rng):
  changed = bytearray(whole)
  for _ in range(3):
    changed[rng.randrange(33)] ^= rng.randrange(1, 256)
  return bytes(changed)


def changed_bytes(whole, rng):
  changed = bytearray(whole)
  for _ in range(3):
    changed[rng.randrange(len(whole))] ^= rng.randrange(1, 256)
  return bytes(changed)


def lost_middle(whole, rng):
  at = rng.randrange(len(whole) * 9 // 10)
  return whole[:at] + whole[at + rng.randrange(1, 400) :]


def exchanged_parts(whole, rng):
  first, second = sorted(rng.sample(range(200, len(whole) - 412, 212), 2))
  if whole.startswith(b"\x89PNG"):
    # Whole chunks, each under its right checksum: 212 bytes from byte 33 on.
    first, second = (33 + 212 * (x // 212) for x in (first, second))
  parts = list(whole)
  parts[first : first + 212] = whole[second : second + 212]
  parts[second : second + 212] = whole[first : first + 212]
  return bytes(parts)


DAMAGE = (
  cut_short,
  blank_end,
  random_end,
  damaged_header,
  changed_bytes,
  lost_middle,
  exchanged_parts,
)
# Where a decoder can tell that the pixels are not the image's. A checksum finds
# anything; a JPEG's or GIF's structure finds that nothing sensible comes to an
# end; the others' finds that bytes are missing.
NOTICED = {
  cut_short: set(WHOLE),
  blank_end: {"PNG", "JPEG", "progressive JPEG", "GIF"},
  random_end: {"PNG"},
  damaged_header: {"PNG"},
  changed_bytes: {"PNG"},
  lost_middle: {"PNG", "BMP", "TIFF"},
  exchanged_parts: {"PNG"},
}


# Pillow remarks on what it skips in a damaged TIFF.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", WHOLE)
def test_damage_is_refused_where_the_format_can_tell(kind, damage):
  pixels = decode.decode_rgb(WHOLE[kind], "x")
  assert pixels.shape == (24, 36, 3)
  refused = []
  for seed in range(20):
    damaged = damage(WHOLE[kind], random.Random(seed))  # noqa: S311
    assert damaged != WHOLE[kind]
    try:
      got = decode.decode_rgb(damaged, "some/file")
    except decode.BadImageError as e:
      refused.append(str(e))
      continue
    assert (got.ndim, got.shape[-1], got.dtype) == (3, 3, np.uint8)
    if kind in NOTICED[damage]:
      np.testing.assert_array_equal(got, pixels)
  assert all(x.startswith("some/file: cannot decode this im") for x in refused)
  if kind in NOTICED[damage]:
    # The rest lost no more than what follows the pixels.
    assert len(refused) >= 18


def test_the_same_size_is_the_same_image():
  np.testing.assert_array_equal(resize.resize(noise(), (H, W)), noise())


def test_height_comes_first():
  assert resize.resize(noise(), (5, 7)).shape == (5, 7, 3)
  assert resize.resize(noise(), (5, 7), (0, 0, 6, 6)).shape == (5, 7, 3)


def test_a_box_is_top_left_bottom_right():
  # At scale 1 a resize takes pixels as they are.
  cut = resize.resize(noise(), (4, 9), (2, 5, 6, 14))
  np.testing.assert_array_equal(cut, noise()[2:6, 5:14])


def test_a_box_may_be_fractional():
  ramp = np.tile(np.arange(0, 80, 10, dtype=np.uint8)[:, None, None], (1, 8, 3))
  # Half a pixel down is halfway between a row and the next.
  moved = resize.resize(ramp, (4, 8), (2.5, 0, 6.5, 8))
  np.testing.assert_array_equal(moved[:, 0, 0], [25, 35, 45, 55])


def test_shrinking_averages():
  checks = np.indices((16, 16)).sum(axis=0) % 2 * 255
  checks = np.repeat(checks[..., None], 3, axis=-1).astype(np.uint8)
  shrunk = resize.resize(checks, (4, 4)).astype(int)
  # Without antialiasing some squares would stay 0 or 255. Half of 255, within
  # what the cut-off kernel at the border leaves over.
  np.testing.assert_allclose(shrunk, 127.5, atol=3)
