import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def test_pixels_of_a_patch_are_row_major_with_channels_last():
  image = jnp.arange(2 * 2 * 3, dtype=jnp.uint8).reshape(1, 2, 2, 3)
  assert patchify(image, (2, 2)).patches[0, 0].tolist() == list(range(12))


@pytest.mark.parametrize("patch_hw", [(1, 1), (2, 3), (4, 6), (8, 12)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_unpatchify_inverts_patchify(patch_hw, dtype):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (2, 8, 12, 3)).astype(dtype)
  patches = patchify(images, patch_hw).patches
  assert patches.dtype == dtype
  np.testing.assert_array_equal(unpatchify(patches, (8, 12), patch_hw), images)


def test_image_that_is_not_whole_patches_is_refused():
  with pytest.raises(
    ValueError, match=r"24x30 pixels.*5x4.*resize it to 25x32"
  ):
    patchify(jnp.zeros((1, 24, 30, 3)), (5, 4))
  with pytest.raises(ValueError, match="patch size 0x4"):
    tokens_lib.grid_shape((8, 8), (0, 4))


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
    tokens_lib.to_unit_range(pixels), [-1, -0.6, 1], rtol=0, atol=6e-8
  )
  assert tokens_lib.to_unit_range(pixels, jnp.bfloat16).tolist()[::2] == [-1, 1]
  floats = jnp.array([-0.25, 0.75])
  assert tokens_lib.to_unit_range(floats).tolist() == [-0.25, 0.75]


def test_packs_pass_through_to_tokens_and_images_are_cut():
  images = jnp.ones((1, 8, 8, 1))
  tokens = tokens_lib.to_tokens(images, (4, 4))
  assert tokens.patches.shape == (1, 4, 16)
  assert tokens_lib.to_tokens(tokens, None) is tokens
