"""Decoding and resizing as TensorFlow does: the very same bytes.

bv_compat.npz holds small JPEGs of several kinds, and the SHA-256 sums of what
TensorFlow 2.21 made of them, and of scikit-learn's two photographs, by the
operations of big_vision's preprocessing.
"""

import hashlib
import importlib.util
import io
import pathlib

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image

from flexivit_jax.data.pixels import bv_compat, decode, preprocessing

GOLDEN = pathlib.Path(__file__).parent / "bv_compat.npz"
PHOTOGRAPHS = pathlib.Path(sklearn.datasets.__file__).parent / "images"
NAMES = (
  *("china.jpg", "flower.jpg", "420_97x131", "444_97x131", "422_64x211"),
  *("grey_90x61", "progressive_120x80", "tiny_3x5"),
)


def encoded(name):
  if name.endswith(".jpg"):
    return (PHOTOGRAPHS / name).read_bytes()
  with np.load(GOLDEN) as file:
    return file[f"jpeg/{name}"].tobytes()


def made(mode, image):
  """By name of the golden sums; "|" is the crop that follows."""
  h, w = image.shape[:2]
  top, left = h // 7, w // 5
  part = (top, left, top + h // 2, left + w // 2)
  return {
    "decoded": image,
    "resize272_crop240": mode.resize(image, (272, 272))[16:256, 16:256],
    "resize_small256_crop224": mode.resize_crop(image, 256, (224, 224)),
    "resize_small48_crop40x32": mode.resize_crop(image, 48, (40, 32)),
    "part_resize_31x57": mode.resize(image, (31, 57), part),
  }


def agreeing(name, mode, decoder=None):
  """The operations that give TensorFlow's pixels."""
  pixels = made(mode, (decoder or mode).decode(encoded(name), name))
  with np.load(GOLDEN) as file:
    return {
      key
      for key, x in pixels.items()
      if hashlib.sha256(np.ascontiguousarray(x)).hexdigest()
      == file[f"sha256/{name}/{key}"]
    }


COMPAT = preprocessing.BvCompat()
ALL = set(made(COMPAT, np.zeros((9, 9, 3), np.uint8)))


@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_those_of_tensorflow(name):
  assert agreeing(name, COMPAT) == ALL


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg", "420_97x131"])
def test_pillows_pixels_are_others(name):
  assert agreeing(name, preprocessing.ANTIALIAS) == set()
  # The decoder alone makes the difference, and so does the resize.
  assert agreeing(name, COMPAT, decoder=preprocessing.ANTIALIAS) == set()
  assert agreeing(name, preprocessing.ANTIALIAS, decoder=COMPAT) == {"decoded"}


def noise(h, w):
  rng = np.random.default_rng(7)
  return rng.integers(0, 256, (h, w, 3), dtype=np.uint8)


def test_its_own_size_changes_nothing():
  image = noise(13, 9)
  np.testing.assert_array_equal(COMPAT.resize(image, (13, 9)), image)
  crop = COMPAT.resize_crop(image, 9, (7, 5))
  np.testing.assert_array_equal(crop, image[3:10, 2:7])


def test_what_is_no_jpeg_is_decoded_as_ever():
  """Nor are JPEGs in CMYK; TensorFlow's differ by 1.7 grey levels."""
  image = Image.fromarray(noise(12, 18))
  for kind in ("PNG", "BMP", "GIF", "JPEG"):
    buffer = io.BytesIO()
    (image.convert("CMYK") if kind == "JPEG" else image).save(buffer, kind)
    file = buffer.getvalue()
    np.testing.assert_array_equal(
      COMPAT.decode(file, "x"), decode.decode_rgb(file, "x")
    )


def test_orientation_is_heeded_where_asked_for():
  exif = Image.Exif()
  exif[0x0112] = 6
  buffer = io.BytesIO()
  Image.fromarray(noise(8, 16)).save(buffer, "JPEG", exif=exif)
  file = buffer.getvalue()
  stored = COMPAT.decode(file, "x")
  turned = COMPAT.decode(file, "x", exif_transpose=True)
  np.testing.assert_array_equal(turned, np.rot90(stored, -1))


@pytest.mark.parametrize("kept", [0.3, 0.99])
def test_a_cut_jpeg_is_refused(kept):
  file = encoded("420_97x131")
  text = r"^a\.jpg: cannot decode this image: it ends before its end marker$"
  with pytest.raises(decode.BadImageError, match=text):
    COMPAT.decode(file[: int(kept * len(file))], "a.jpg")
  with pytest.raises(decode.BadImageError, match=r"^a\.jpg: cannot decode"):
    COMPAT.decode(file[:180] + b"\xff\xd9", "a.jpg")


def test_without_simplejpeg_it_is_refused(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match='pip install simplejpeg, or take "anti'):
    bv_compat.check_decoder()
