import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.nn import pooling
from flexivit_jax.nn.heads import classifier


def test_average_of_each_image_of_a_row():
  x = jnp.array([[1.0, 3.0, 10.0, 5.0, 7.0]])[..., None]
  segments = jnp.array([[1, 1, 2, 0, 0]])
  pooled = pooling.average(x, segments, num_images=3)
  assert pooled[0, :, 0].tolist() == [2, 10, 0]  # an empty slot is 0


def test_what_padding_holds_does_not_matter():
  x = jnp.array([[1.0, 3.0, jnp.nan]])[..., None]
  segments = jnp.array([[1, 1, 0]])
  assert pooling.average(x, segments, 1)[0, 0, 0] == 2
  gradient = jax.grad(lambda x: pooling.average(x, segments, 1).sum())(x)
  assert gradient[0, :, 0].tolist() == [0.5, 0.5, 0]


def test_average_without_segments_is_the_mean_in_float32():
  x = jnp.full((2, 4096, 3), 1 + 2**-7, jnp.bfloat16)
  assert (pooling.average(x, None, 1) == x[:, :1]).all()


def test_prepended_groups_belong_to_their_slot():
  x = jnp.zeros((1, 3, 2))
  segments = jnp.array([[1, 2, 0]])
  group = jnp.array([[[1.0, 1], [2, 2]]])
  out, got = pooling.prepend(x, segments, group, num_images=2)
  assert out[0, :, 0].tolist() == [1, 2, 1, 2, 0, 0, 0]
  assert got.tolist() == [[1, 1, 2, 2, 1, 2, 0]]
  assert pooling.prepend(x, None, group, 1)[1] is None


@pytest.mark.parametrize("num_images", [1, 2])
def test_map_head_reads_each_image_alone(num_images):
  head = classifier.MapHead(2, 8, jnp.dtype("float32"), 1e-6)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 4)), jnp.float32)
  params = head.init(jax.random.key(0), x, None, 1)
  alone = head.apply(params, x[:, :4], None, 1)[:, 0]
  segments = jnp.array([[1, 1, 1, 1, num_images, 0]])
  if num_images == 1:
    segments = segments.at[0, 4].set(0)
  packed = head.apply(params, x, segments, num_images)
  assert packed.shape == (1, num_images, 4)
  # The same sums in another order.
  np.testing.assert_allclose(packed[:, 0], alone, rtol=0, atol=1e-6)
