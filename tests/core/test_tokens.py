import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.core import patch_pixels, places
from flexivit_jax.core import tokens as tokens_lib
from flexivit_jax.core.tokens import patchify, unpatchify


def test_patchify_puts_pixels_and_coordinates_where_drawn():
  # Two rows of three 1x2 patches, one channel.
  image = jnp.arange(12, dtype=jnp.uint8).reshape(1, 2, 6, 1)
  tokens = patchify(image, (1, 2))
  assert tokens.patches[0].tolist() == [
    [0, 1],
    [2, 3],
    [4, 5],
    [6, 7],
    [8, 9],
    [10, 11],
  ]
  assert tokens.coords[0].tolist() == [
    [0, 0],
    [0, 1],
    [0, 2],
    [1, 0],
    [1, 1],
    [1, 2],
  ]
  assert tokens.grid_hw[0].tolist() == [[2, 3]] * 6
  assert tokens.patch_sizes == ((1, 2),)
  assert tokens.segments is None


@pytest.mark.parametrize("patch_hw", [(1, 1), (2, 3), (4, 6), (8, 12)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_unpatchify_inverts_patchify(patch_hw, dtype):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (2, 8, 12, 3)).astype(dtype)
  patches = patchify(images, patch_hw).patches
  assert patches.dtype == dtype
  np.testing.assert_array_equal(unpatchify(patches, (8, 12), patch_hw), images)


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (
      lambda: patchify(jnp.zeros((1, 24, 30, 3)), (5, 4)),
      "24x30 pixels is not a whole number of 5x4",
    ),
    (lambda: tokens_lib.grid_shape((8, 8), (0, 4)), "patch size 0x4"),
  ],
)
def test_refusals(make, text):
  with pytest.raises(ValueError, match=re.escape(text)):
    make()


def test_tokens_are_a_pytree_whose_patch_size_is_static():
  traces = []

  @jax.jit
  def read(tokens):
    traces.append(tokens.patch_sizes)
    return tokens.patches.sum()

  images = jnp.ones((1, 8, 8, 1))
  for p in (4, 8, 4, 8):
    assert read(patchify(images, (p, p))) == 64
  assert traces == [((4, 4),), ((8, 8),)]


def test_uint8_maps_to_minus_one_to_one_and_floats_pass():
  pixels = jnp.array([0, 51, 255], jnp.uint8)
  # 51 / 127.5 - 1 is -0.6; float32 rounds it, the ends are exact.
  np.testing.assert_allclose(
    patch_pixels.to_unit_range(pixels), [-1, -0.6, 1], rtol=0, atol=6e-8
  )
  assert patch_pixels.to_unit_range(pixels, jnp.bfloat16).tolist()[::2] == [
    -1,
    1,
  ]
  floats = jnp.array([-0.25, 0.75])
  assert patch_pixels.to_unit_range(floats).tolist() == [-0.25, 0.75]


def _standardized(image):
  """The definition, in float64, of an image of 0 to 255."""
  x = image.astype(np.float64)
  return (x - x.mean()) / max(x.std(), x.size**-0.5)


def _noise(h, w, low=0, high=256):
  rng = np.random.default_rng(h * w)
  return rng.integers(low, high, (h, w, 3), np.uint8)


# Rounding of numbers of order 4 in float32.
STANDARDIZED = dict(rtol=0, atol=2e-6)


@pytest.mark.parametrize("as_float", [False, True])
def test_images_are_standardized_each_on_its_own(as_float):
  images = np.stack([_noise(8, 12), _noise(8, 12, 30, 40)])
  given = images / np.float32(127.5) - 1 if as_float else images
  tokens = patch_pixels.standardize(patchify(jnp.asarray(given), (4, 6)))
  got = unpatchify(tokens.patches, (8, 12), (4, 6))
  for x, image in zip(got, images, strict=True):
    # Floats of [-1, 1] have lost what 3 of 255 grey values are rounded to.
    np.testing.assert_allclose(
      x, _standardized(image), rtol=0, atol=2e-5 if as_float else 2e-6
    )


def _pack(images, patch_hw, padding):
  """All images in one row, padding between them, the last first."""
  parts, segments = [], []
  for i, image in reversed(list(enumerate(images, 1))):
    patches = patchify(jnp.asarray(image[None]), patch_hw).patches[0]
    parts += [patches, jnp.full_like(patches[:1], padding)]
    segments += [i] * len(patches) + [0]
  tokens = patchify(jnp.asarray(images[0][None]), patch_hw)
  return dataclasses.replace(
    tokens,
    patches=jnp.concatenate(parts)[None],
    segments=jnp.asarray([segments], jnp.int32),
    num_images=len(images) + 1,
  )


@pytest.mark.parametrize("padding", [0, 255])
def test_packed_images_are_standardized_without_their_neighbours(padding):
  images = _noise(8, 8), _noise(4, 12, 0, 30), _noise(4, 4, 200, 256)
  tokens = _pack(images, (4, 4), padding)
  got = patch_pixels.standardize(tokens).patches[0]
  segments = tokens.segments[0]
  assert (got[segments == 0] == 0).all()
  for i, image in enumerate(images, 1):
    x = unpatchify(got[segments == i][None], image.shape[:2], (4, 4))[0]
    np.testing.assert_allclose(x, _standardized(image), **STANDARDIZED)


def test_what_lies_beyond_a_smaller_patch_is_no_pixel():
  small, large = _noise(2, 4, 0, 9), _noise(4, 4)
  patches = np.full((1, 3, 4 * 4 * 3), 255, np.uint8)
  top_left = patches.reshape(3, 4, 4, 3)
  top_left[0, :2, :2], top_left[1, :2, :2] = small[:, :2], small[:, 2:]
  top_left[2] = large
  ones = jnp.ones((1, 3, 2), jnp.int32)
  tokens = tokens_lib.Tokens(
    patches=jnp.asarray(patches),
    coords=0 * ones,
    grid_hw=ones,
    segments=jnp.asarray([[1, 1, 2]]),
    size_index=jnp.asarray([[1, 1, 0]]),
    patch_sizes=((4, 4), (2, 2)),
    num_images=2,
  )
  got = patch_pixels.standardize(tokens).patches.reshape(3, 4, 4, 3)
  first = np.concatenate([got[0, :2, :2], got[1, :2, :2]], axis=1)
  np.testing.assert_allclose(first, _standardized(small), **STANDARDIZED)
  np.testing.assert_allclose(got[2], _standardized(large), **STANDARDIZED)
  assert not got[0, 2:].any()
  assert not got[1, :, 2:].any()


def test_padding_is_a_member_of_no_slot():
  segments = jnp.asarray([[1, 1, 2, 0], [0, 3, 1, 3]], jnp.int32)
  found = np.asarray(places.membership(segments, 3)).astype(int)
  assert found[0].tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]]
  assert found[1].tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1]]
