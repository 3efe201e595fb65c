"""Results by image, whatever rows the images were in, and rows as images."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from flexivit_jax.analysis import images as images_lib
from flexivit_jax.core.resolution import NaFlex, Native
from flexivit_jax.core.tokens import Tokens, patchify
from flexivit_jax.nn.positions import waves


def subject(images, resolution=None, model=None, params=None):
  model = model or tiny.model()
  return images_lib.Subject(model, params, images, [], resolution, [])


def test_packed_images_come_back_in_their_order():
  images = [x for x in tiny.images() for _ in range(9)]
  got = subject(images, Native()).pixels(tiny.PATCH)
  for x, y in zip(got, images, strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("at_once", [1, 3, 4, 64])
def test_images_of_one_size_come_back_in_their_order(monkeypatch, at_once):
  monkeypatch.setattr(images_lib, "MOST_AT_ONCE", at_once)
  images = list(np.random.default_rng(0).integers(0, 9, (7, 8, 12, 3)))
  shapes = set()
  for tokens, numbers in subject(images).in_rows((4, 4)):
    shapes.add(tokens.patches.shape)
    assert len(numbers) <= len(images_lib.places(tokens))
  # One shape, so one program.
  assert shapes == {(min(at_once, 7), 6, 48)}
  for x, y in zip(subject(images).pixels((4, 4)), images, strict=True):
    np.testing.assert_array_equal(x, y)


def test_images_beyond_the_positions_are_scaled_down():
  model = tiny.model(position="relative")  # of 3x2
  assert model.position.largest_grid == (3, 2)
  images = [np.zeros((32, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)]
  got = subject(images, Native(), model).pixels((4, 4))
  assert [x.shape for x in got] == [(12, 4, 3), (8, 8, 3)]
  free = tiny.model().clone(position=waves.SinCos2D())
  got = subject(images, Native(), free).pixels((4, 4))
  assert [x.shape for x in got] == [(32, 8, 3), (8, 8, 3)]


@pytest.mark.parametrize("resolution", [None, NaFlex(6)])
def test_results_are_by_image(resolution):
  rng = np.random.default_rng(1)
  images = list(rng.integers(0, 256, (5, 8, 12, 3), np.uint8))
  model = tiny.model()
  params = tiny.params(model)

  def first_channel(found, tokens):
    return [x[..., 0] for x in images_lib.to_images(tokens, found.patches[-1])]

  def compute(images):
    own = subject(images, resolution, model, params)
    return own.of_images(first_channel, (4, 4), ("patches",))

  together = compute(images)
  for image, got in zip(images, together, strict=True):
    # The same sums in another order, of float32.
    np.testing.assert_allclose(got, compute([image])[0], rtol=0, atol=1e-5)
  assert np.abs(together[0] - together[1]).max() > 1e-2


def test_shuffled_packed_rows_give_the_images_back():
  tokens = tiny.packed(shuffle=True, rows=3)
  pixels = images_lib.to_pixels(tokens)
  assert len(pixels) == 9
  for at, got in enumerate(pixels):
    row, slot = divmod(at, 3)
    np.testing.assert_array_equal(got, tiny.images()[(slot - row) % 3])


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
  assert images_lib.patch_sizes_of(mixed) == list(sizes)
  for got in images_lib.to_pixels(mixed):
    np.testing.assert_array_equal(got, image)
