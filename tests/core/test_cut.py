import numpy as np

from flexivit_jax.core import cut
from flexivit_jax.core.tokens import patchify_numpy


def test_each_device_has_every_nth_token():
  x = np.arange(24).reshape(2, 12)
  shares = np.split(cut.strided(x, 3), 3, axis=1)
  for i, share in enumerate(shares):
    np.testing.assert_array_equal(share, x[:, i::3])


def test_tokens_keep_their_coordinates():
  images = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
  tokens = cut.reorder(patchify_numpy(images, (1, 1)), 4)
  rows, cols = np.moveaxis(np.asarray(tokens.coords[0]), -1, 0)
  np.testing.assert_array_equal(tokens.patches[0, :, 0], 8 * rows + cols)
  assert tokens.coords[0, 1].tolist() == [0, 4]
  assert tokens.whole_grid is None  # row-major no more
