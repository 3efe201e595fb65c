"""Images of any size in one call, as rows of packed patches."""

import numpy as np
import pytest

from flexivit_jax.core import resolution, tokens
from flexivit_jax.data.packing import image_list
from flexivit_jax.data.pixels import resize

PATCH = (4, 4)
rng = np.random.default_rng(0)
IMAGES = [
  rng.integers(0, 256, (h, w, 3), np.uint8)
  for h, w in ((8, 12), (20, 8), (4, 4), (16, 16), (9, 13), (40, 44))
]


NATIVE = resolution.Native()


def pack(chosen, policy=NATIVE, largest=None):
  return list(image_list.pack(chosen, PATCH, policy, largest))


def test_every_image_is_whole_in_its_slot():
  seen = []
  for packed, placed in pack(IMAGES):
    assert packed.patch_sizes == (PATCH,)
    for at in placed:
      image = IMAGES[at.image]
      hw = resolution.Native()(image.shape[:2], PATCH, None)
      own = tokens.patchify_numpy(resize.resize(image, hw)[None], PATCH)
      members = packed.segments[at.row] == at.slot + 1
      assert members.nonzero()[0].tolist() == list(
        range(at.start, at.start + own.patches.shape[1])
      )
      for name in ("patches", "coords", "grid_hw"):
        got = getattr(packed, name)[at.row][members]
        np.testing.assert_array_equal(got, getattr(own, name)[0])
      assert at.grid_hw == (hw[0] // 4, hw[1] // 4)
      seen.append(at.image)
    empty = packed.segments == 0
    assert (packed.grid_hw[empty] == 1).all()
    assert not packed.coords[empty].any()
    assert not packed.patches[empty].any()
  assert sorted(seen) == list(range(len(IMAGES)))


def test_few_shapes_for_many_sizes():
  shapes = set()
  for n in range(1, 40):
    for packed, _ in pack([IMAGES[i % 5] for i in range(n)]):
      shapes.add((packed.patches.shape, packed.num_images))
  # Rows of 128 hold all; rows and slots are powers of two or half more.
  assert {shape[1] for shape, _ in shapes} == {128}
  assert len(shapes) < 12


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_other_channels_and_floats_are_resized_alike(channels, dtype):
  """As Pillow does, which takes three channels of uint8 alone."""
  image = np.repeat(IMAGES[4][..., :1], channels, axis=-1)
  hw = resolution.Native()(image.shape[:2], PATCH, None)
  expected = resize.resize(np.repeat(image[..., :1], 3, -1), hw)[..., :1]
  ((packed, (at,)),) = pack([image.astype(dtype)])
  own = tokens.patchify_numpy(np.repeat(expected, channels, -1)[None], PATCH)
  assert packed.patches.dtype == dtype
  got = packed.patches[at.row, : own.patches.shape[1]].astype(float)
  # Pillow's weights are whole numbers: a grey level.
  assert np.abs(got - own.patches[0]).max() <= 1


def test_an_image_beyond_the_positions_is_named():
  text = r"^image 5 of 40x44 .* 10x11 .* end at 5x4: give .* NaFlex\(4\)"
  with pytest.raises(ValueError, match=text):
    pack(IMAGES, largest=(5, 4))
  assert pack(IMAGES, resolution.NaFlex(12), largest=(5, 4))


@pytest.mark.parametrize(
  ("grid", "count", "shapes", "images"),
  [
    ((10, 13), 1, [(1, 192)], [1]),  # rounded up to 128, 192, 256, ...
    ((20, 10), 1, [(1, 256)], [1]),
    ((64, 64), 5, [(2, 4096)] * 3, [2, 2, 1]),  # a few rows at a time
  ],
)
def test_rows_are_as_long_as_the_longest_image(grid, count, shapes, images):
  packs = pack([np.zeros((4 * grid[0], 4 * grid[1], 3), np.uint8)] * count)
  assert [packed.segments.shape for packed, _ in packs] == shapes
  assert [len(placed) for _, placed in packs] == images
