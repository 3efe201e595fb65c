"""Losses by patch size of drawn rows, with numbers by hand."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from flexivit_jax.core.tokens import Batch, Tokens
from flexivit_jax.tasks.pack_metrics import LOSSES, loss_by_patch_size


def drawn(segments, sizes, slots=4):
  """A batch of rows written as segments, and the size of each token's patch."""

  def as_array(rows):
    return np.array(
      [[int(x) if x != "." else 0 for x in row] for row in rows], np.int32
    )

  segments, sizes = as_array(segments), as_array(sizes)
  b, l = segments.shape
  weights = (np.arange(1, slots + 1) <= segments.max(axis=1)[:, None]).astype(
    np.float32
  )
  tokens = Tokens(
    patches=np.zeros((b, l, 3), np.uint8),
    coords=np.zeros((b, l, 2), np.int32),
    grid_hw=np.ones((b, l, 2), np.int32),
    segments=segments,
    size_index=sizes,
    patch_sizes=((1, 1), (2, 2), (4, 4)),
    num_images=slots,
  )
  nothing = np.zeros((b, slots), np.int32)
  return Batch(tokens, nothing, weights, nothing)


# Images of the sizes 0, 2, 0 and 2, 2, 0.
BATCH = drawn(["112223..", "123....."], ["00222000", "220....."])
LOSS = jnp.array([[1.0, 20.0, 4.0, jnp.nan], [300.0, 5000.0, 7.0, jnp.nan]])


def test_a_drawn_batch():
  found = loss_by_patch_size(LOSS, BATCH)[LOSSES]
  np.testing.assert_array_equal(found.total, [12.0, 0.0, 5320.0])
  np.testing.assert_array_equal(found.count, [3.0, 0.0, 3.0])


def test_a_skipped_image_counts_nowhere():
  weights = BATCH.weights.copy()
  weights[1, 1] = 0
  batch = dataclasses.replace(BATCH, weights=weights)
  found = loss_by_patch_size(LOSS.at[1, 1].set(jnp.nan), batch)[LOSSES]
  np.testing.assert_array_equal(found.total, [12.0, 0.0, 320.0])
  np.testing.assert_array_equal(found.count, [3.0, 0.0, 2.0])


def test_nothing_of_images_of_one_size():
  tokens = dataclasses.replace(BATCH.inputs, size_index=None)
  assert (
    loss_by_patch_size(LOSS, dataclasses.replace(BATCH, inputs=tokens)) == {}
  )
  grid = dataclasses.replace(BATCH, inputs=np.zeros((2, 4, 4, 3), np.uint8))
  assert loss_by_patch_size(LOSS[:, :1], grid) == {}
