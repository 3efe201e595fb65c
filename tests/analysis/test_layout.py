"""Rows of tokens as images again."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from flexivit_jax.analysis import images as images_lib
from flexivit_jax.core.tokens import Tokens, patchify


def test_shuffled_packed_rows_give_the_images_back():
  tokens = tiny.packed(shuffle=True, rows=3)
  pixels = images_lib.to_pixels(tokens)
  assert len(pixels) == 9
  for at, got in enumerate(pixels):
    row, slot = divmod(at, 3)
    np.testing.assert_array_equal(got, tiny.images()[(slot - row) % 3])


def test_grids_give_the_images_back():
  images = np.arange(2 * 8 * 18 * 3).reshape(2, 8, 18, 3).astype(np.float32)
  tokens = patchify(images, tiny.PATCH)
  np.testing.assert_array_equal(np.stack(images_lib.to_pixels(tokens)), images)
  numbers = np.broadcast_to(np.arange(6), (2, 6))
  for got in images_lib.to_images(tokens, numbers):
    assert got.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_places_are_by_row_and_slot_without_the_empty_ones():
  places = images_lib.places(tiny.packed(rows=2))
  assert [(p.row, p.slot) for p in places] == [
    *((0, 0), (0, 2), (0, 3)),
    *((1, 0), (1, 2), (1, 3)),
  ]
  assert places[0].own.tolist() == [0, 1, 2, 3, 4, 5]
  # The second row starts with the image of 1x2 patches.
  assert places[3].own.tolist() == [0, 1]
  assert [(p.row, p.slot) for p in images_lib.places(tiny.grid())] == [
    (0, 0),
    (1, 0),
  ]


def test_vectors_lie_where_their_patches_lie():
  tokens = tiny.packed(shuffle=True)
  coords = np.asarray(tokens.coords, np.float32)
  for got, (rows, cols) in zip(
    images_lib.to_images(tokens, coords), tiny.GRIDS, strict=True
  ):
    assert got.shape == (rows, cols, 2)
    np.testing.assert_array_equal(
      got, np.moveaxis(np.indices((rows, cols)), 0, -1)
    )


@pytest.mark.parametrize(("kind", "missing"), [(float, np.nan), (int, 0)])
def test_patches_that_were_dropped_are_missing(kind, missing):
  tokens = tiny.grid(1)
  kept = dataclasses.replace(
    tokens,
    **{
      name: getattr(tokens, name)[:, 1:5]
      for name in ("patches", "coords", "grid_hw")
    },
  )
  (got,) = images_lib.to_images(kept, np.array([[1, 2, 3, 4]], kind))
  np.testing.assert_array_equal(got, [[missing, 1, 2], [3, 4, missing]])


def test_patches_of_several_sizes_in_a_row_are_images_again():
  # One image cut at 4x6, and at 8x9 pixels.
  image = tiny.images()[0]
  sizes = (tiny.PATCH, (8, 9))
  cut = [patchify(image[None], size) for size in sizes]
  length, numbers = 8, 8 * 9 * 3
  patches = np.zeros((1, length, numbers), np.uint8)
  start = 0
  for tokens, (h, w) in zip(cut, sizes, strict=True):
    own = np.asarray(tokens.patches)[0].reshape(-1, h, w, 3)
    padded = np.zeros((len(own), 8, 9, 3), np.uint8)
    padded[:, :h, :w] = own
    patches[0, start : start + len(own)] = padded.reshape(len(own), -1)
    start += len(own)
  counts = [t.patches.shape[1] for t in cut]
  mixed = Tokens(
    patches=patches,
    coords=jnp.concatenate([t.coords for t in cut], axis=1),
    grid_hw=jnp.concatenate([t.grid_hw for t in cut], axis=1),
    segments=np.repeat([1, 2], counts)[None],
    size_index=np.repeat([0, 1], counts)[None],
    patch_sizes=sizes,
    num_images=2,
  )
  assert images_lib.patch_sizes(mixed) == list(sizes)
  for got in images_lib.to_pixels(mixed):
    np.testing.assert_array_equal(got, image)
