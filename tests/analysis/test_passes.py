"""Results by image, whatever rows the images were in."""

import numpy as np
import pytest
import tiny

from flexivit_jax.analysis import images as images_lib
from flexivit_jax.core.resolution import NaFlex, Native
from flexivit_jax.nn.positions import waves


def as_they_are(images, patch_hw, resolution, model=None):
  return images_lib.pixels_of(
    images, patch_hw, model or tiny.model(), resolution
  )


def test_packed_images_come_back_in_their_order():
  images = [x for x in tiny.images() for _ in range(9)]
  got = as_they_are(images, tiny.PATCH, Native())
  for x, y in zip(got, images, strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("at_once", [1, 3, 4, 64])
def test_images_of_one_size_come_back_in_their_order(monkeypatch, at_once):
  monkeypatch.setattr(images_lib, "MOST_AT_ONCE", at_once)
  images = list(np.random.default_rng(0).integers(0, 9, (7, 8, 12, 3)))
  shapes = set()
  for tokens, numbers in images_lib.in_rows(images, (4, 4), tiny.model(), None):
    shapes.add(tokens.patches.shape)
    assert len(numbers) <= len(images_lib.places(tokens))
  # One shape, so one program.
  assert shapes == {(min(at_once, 7), 6, 48)}
  for x, y in zip(as_they_are(images, (4, 4), None), images, strict=True):
    np.testing.assert_array_equal(x, y)


def test_long_rows_are_fewer_at_once(monkeypatch):
  monkeypatch.setattr(images_lib, "WEIGHTS_AT_ONCE", 2 * 16**2 * 5)
  images = [np.zeros((16, 16, 3), np.uint8)] * 20
  (tokens, _), *_ = images_lib.in_rows(images, (4, 4), tiny.model(), None)
  assert len(tokens.patches) == 5  # of 2 heads and 16 tokens
  (tokens, _), *_ = images_lib.in_rows(images, (2, 2), tiny.model(), None)
  assert len(tokens.patches) == 1


def test_images_beyond_the_positions_are_scaled_down():
  model = tiny.model(position="relative")  # of 3x2
  assert model.position.largest_grid == (3, 2)
  images = [np.zeros((32, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)]
  got = as_they_are(images, (4, 4), Native(), model)
  assert [x.shape for x in got] == [(12, 4, 3), (8, 8, 3)]
  free = tiny.model().clone(position=waves.SinCos2D())
  got = as_they_are(images, (4, 4), Native(), free)
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
    return images_lib.of_images(
      first_channel,
      images,
      (4, 4),
      model=model,
      params=params,
      names=("patches",),
      resolution=resolution,
    )

  together = compute(images)
  for image, got in zip(images, together, strict=True):
    # The same sums in another order, of float32.
    np.testing.assert_allclose(got, compute([image])[0], rtol=0, atol=1e-5)
  assert np.abs(together[0] - together[1]).max() > 1e-2


def test_an_image_of_no_whole_patches_is_refused():
  images = [np.zeros((10, 12, 3), np.uint8)]
  with pytest.raises(ValueError) as error:
    as_they_are(images, (4, 4), None)
  assert str(error.value) == (
    "an image of 10x12 pixels is not a whole number of 4x4 patches: resize it "
    "to 8x12, or take a patch size whose sides divide 10 and 12"
  )
