"""One stored head for the pixels of patches of every size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.core import resize
from flexivit_jax.core.tokens import Tokens, patchify
from flexivit_jax.nn.heads.pixel_head import PixelHead

KERNEL = (6, 4)
SIZES = ((4, 4), (8, 6), (1, 9))  # padded to 8x9
HEAD = PixelHead(KERNEL, 2, jnp.float32)
X = jax.random.normal(jax.random.key(0), (2, 5, 7))


def tokens(size):
  return patchify(jnp.zeros((2, 5 * size[0], size[1], 2)), size)


def parameters(head=HEAD):
  params = head.init(jax.random.key(1), X, tokens(KERNEL))["params"]
  noise = jax.random.normal(jax.random.key(2), params["bias"].shape)
  return {**params, "bias": noise}


def answer(size, head=HEAD):
  return head.apply({"params": parameters(head)}, X, tokens(size))


def test_the_stored_size_is_a_linear_map():
  params = parameters()
  wanted = np.einsum("bld,dijc->blijc", X, params["kernel"])
  wanted = wanted + np.asarray(params["bias"])
  np.testing.assert_allclose(
    answer(KERNEL).reshape(wanted.shape), wanted, atol=1e-5
  )


@pytest.mark.parametrize("size", SIZES)
def test_another_size_is_the_stored_pixels_resized_as_an_image(size):
  stored = np.asarray(answer(KERNEL), np.float64).reshape(2, 5, *KERNEL, 2)
  rows, cols = (
    resize.bilinear_matrix(o, n, True) for o, n in zip(KERNEL, size)
  )
  wanted = np.einsum("pk,qm,blkmc->blpqc", rows, cols, stored)
  # float32 sums of seven products and at most a dozen weights.
  np.testing.assert_allclose(
    answer(size).reshape(wanted.shape), wanted, atol=2e-5
  )


def test_mixed_sizes_are_each_what_it_is_alone():
  index = np.array([[0, 1, 2, 1, 0], [2, 2, 1, 0, 1]], np.int32)
  places = jnp.zeros((2, 5, 2), jnp.int32)
  mixed = Tokens(
    patches=jnp.zeros((2, 5, 8 * 9 * 2)),
    coords=places,
    grid_hw=places + 1,
    size_index=jnp.asarray(index),
    patch_sizes=SIZES,
  )
  found = HEAD.apply({"params": parameters()}, X, mixed)
  found = np.asarray(found).reshape(2, 5, 8, 9, 2)
  for i, size in enumerate(SIZES):
    h, w = size
    alone = np.asarray(answer(size)).reshape(2, 5, h, w, 2)
    own = index == i
    np.testing.assert_allclose(found[own][:, :h, :w], alone[own], atol=2e-5)
    assert not found[own][:, h:].any()
    assert not found[own][:, :, w:].any()


def test_a_head_can_begin_at_zero():
  head = PixelHead(KERNEL, 2, jnp.float32, zero_init=True)
  params = head.init(jax.random.key(1), X, tokens(KERNEL))
  assert not head.apply(params, X, tokens((8, 6))).any()
  assert HEAD.init_with_output(jax.random.key(1), X, tokens(KERNEL))[0].any()
