"""Decoding files to RGB, and resizing."""

import io

import numpy as np
import pytest
from PIL import Image

from flexivit_jax.data import images

H, W = 12, 18


def encode(image, file_format, **kwargs):
  buffer = io.BytesIO()
  image.save(buffer, file_format, **kwargs)
  return buffer.getvalue()


def solid(mode, colour):
  return Image.new(mode, (W, H), colour)


def noise():
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (H, W, 3), dtype=np.uint8)


@pytest.mark.parametrize(
  ("image", "file_format", "rgb"),
  [
    (solid("RGB", (250, 10, 60)), "PNG", (250, 10, 60)),
    (solid("RGB", (250, 10, 60)), "JPEG", (250, 10, 60)),
    (solid("RGB", (250, 10, 60)), "WEBP", (250, 10, 60)),
    (solid("RGB", (250, 10, 60)), "BMP", (250, 10, 60)),
    (solid("L", 77), "PNG", (77, 77, 77)),
    (solid("L", 77), "JPEG", (77, 77, 77)),
    (solid("1", 1), "PNG", (255, 255, 255)),
    (solid("LA", (77, 255)), "PNG", (77, 77, 77)),
    (solid("RGBA", (250, 10, 60, 255)), "PNG", (250, 10, 60)),
    (solid("RGB", (250, 10, 60)).quantize(4), "GIF", (250, 10, 60)),
    # Cyan ink takes red away.
    (solid("CMYK", (255, 0, 0, 0)), "JPEG", (0, 255, 255)),
    (solid("CMYK", (0, 0, 0, 255)), "JPEG", (0, 0, 0)),
  ],
)
def test_every_kind_of_file_becomes_rgb(image, file_format, rgb):
  pixels = images.decode_rgb(encode(image, file_format), "x")
  assert pixels.shape == (H, W, 3)
  assert pixels.dtype == np.uint8
  # JPEG and WebP round colours in YCbCr: a few of 255. The others are exact.
  tolerance = 4 if file_format in ("JPEG", "WEBP") else 0
  np.testing.assert_allclose(
    pixels.astype(int), np.broadcast_to(rgb, pixels.shape), atol=tolerance
  )


def test_pixels_are_where_they_were():
  pixels = images.decode_rgb(encode(Image.fromarray(noise()), "PNG"), "x")
  np.testing.assert_array_equal(pixels, noise())


def test_sixteen_bits_keep_their_brightness():
  grey = np.array([[0, 20_000, 40_000, 65_535]], np.uint16)
  pixels = images.decode_rgb(encode(Image.fromarray(grey), "PNG"), "x")
  # Rounded or cut to 8 bits: 65535 / 257 = 255, 40000 / 257 = 155.6.
  np.testing.assert_allclose(pixels[0, :, 0].astype(int), grey[0] / 257, atol=1)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_a_torn_file_names_itself(file_format):
  whole = encode(Image.fromarray(noise()), file_format)
  assert images.decode_rgb(whole, "x").shape == (H, W, 3)
  # Empty, in the header, in the pixels.
  for length in (0, 1, 8, 20, len(whole) // 2, len(whole) * 3 // 4):
    with pytest.raises(
      ValueError, match=r"^some/file: cannot decode this image: "
    ):
      images.decode_rgb(whole[:length], "some/file")


def test_a_text_is_no_image():
  with pytest.raises(ValueError, match=r"^a\.jpg: cannot decode this image: "):
    images.decode_rgb(b"<html>404</html>", "a.jpg")


# Resizing.


def test_the_same_size_is_the_same_image():
  np.testing.assert_array_equal(images.resize(noise(), (H, W)), noise())


def test_height_comes_first():
  assert images.resize(noise(), (5, 7)).shape == (5, 7, 3)
  assert images.resize(noise(), (5, 7), (0, 0, 6, 6)).shape == (5, 7, 3)


def test_a_box_is_top_left_bottom_right():
  # At scale 1 a resize takes pixels as they are.
  cut = images.resize(noise(), (4, 9), (2, 5, 6, 14))
  np.testing.assert_array_equal(cut, noise()[2:6, 5:14])


def test_a_box_may_be_fractional():
  ramp = np.tile(np.arange(0, 80, 10, dtype=np.uint8)[:, None, None], (1, 8, 3))
  # Half a pixel down is halfway between a row and the next.
  moved = images.resize(ramp, (4, 8), (2.5, 0, 6.5, 8))
  np.testing.assert_array_equal(moved[:, 0, 0], [25, 35, 45, 55])


def test_shrinking_averages():
  checks = np.indices((16, 16)).sum(axis=0) % 2 * 255
  checks = np.repeat(checks[..., None], 3, axis=-1).astype(np.uint8)
  shrunk = images.resize(checks, (4, 4)).astype(int)
  # Without antialiasing some squares would stay 0 or 255. Half of 255, within
  # what the cut-off kernel at the border leaves over.
  np.testing.assert_allclose(shrunk, 127.5, atol=3)
