"""What is drawn for an image does not hang on its rows and batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.core import image_rng
from flexivit_jax.core.tokens import Tokens, patchify

KEY = jax.random.key(3)
INDEX = jnp.array([[7], [11], [7]])
IMAGES = jnp.zeros((3, 6, 8, 3), jnp.uint8)


def drawn(function, index=INDEX, images=IMAGES, key=KEY, patch=(2, 2)):
  tokens = patchify(images, patch)
  return np.asarray(function(image_rng.image_keys(key, index), tokens))


@pytest.mark.parametrize(
  "function", [image_rng.of_tokens, image_rng.normal_of_tokens]
)
def test_an_image_has_the_same_numbers_in_any_batch(function):
  found = drawn(function)
  np.testing.assert_array_equal(found[0], found[2])  # the same image
  assert (found[0] != found[1]).all()
  alone = drawn(function, INDEX[1:2], IMAGES[1:2])
  np.testing.assert_array_equal(alone[0], found[1])
  other = drawn(function, key=jax.random.key(4))
  assert (other != found).all()


@pytest.mark.parametrize(
  "function", [image_rng.of_tokens, image_rng.normal_of_tokens]
)
def test_packed_images_have_the_numbers_that_they_have_alone(function):
  alone = drawn(function)
  cells = patchify(IMAGES, (2, 2))
  # Image 11 before image 7, some of its patches, in another order.
  order = np.array([[5, 1, 8, *range(12), 0]])
  segments = np.array([[1] * 3 + [2] * 12 + [0]])
  tokens = Tokens(
    patches=jnp.zeros((1, 16, 12)),
    coords=cells.coords[0][order],
    grid_hw=cells.grid_hw[0][order],
    segments=jnp.asarray(segments),
    patch_sizes=((2, 2),),
    num_images=2,
  )
  keys = image_rng.image_keys(KEY, jnp.array([[11, 7]]))
  packed = np.asarray(function(keys, tokens))[0]
  np.testing.assert_array_equal(packed[:3], alone[1][order[0, :3]])
  np.testing.assert_array_equal(packed[3:15], alone[0])


def test_numbers_are_of_their_distributions():
  many, images = jnp.arange(40)[:, None], jnp.zeros((40, 32, 32, 1))
  uniform = drawn(image_rng.of_tokens, many, images)
  # 10,240 numbers: a mean is off by 0.003 or 0.01, by five times that never.
  assert abs(uniform.mean() - 0.5) < 0.015
  assert abs(uniform.std() - 12**-0.5) < 0.01
  assert len(np.unique(uniform)) > 0.99 * uniform.size
  normal = drawn(image_rng.normal_of_tokens, many, images)
  assert normal.shape == (40, 256, 4)
  assert abs(normal.mean()) < 0.025
  assert abs(normal.std() - 1) < 0.02
