"""From an image to patches: equal to the grid's, minus what is dropped."""

import numpy as np
import pytest

from flexivit_jax.core import resolution, token_drop
from flexivit_jax.core.patch_size import (
  BudgetPatchSize,
  FixedPatchSize,
  SampledPatchSize,
)
from flexivit_jax.core.tokens import patchify
from flexivit_jax.data.packing.cutter import Cutter, Plan, TooLongError
from flexivit_jax.data.pixels import resize

NO_DROP = token_drop.NoDrop()


def cutter(policy, patch_size=8, drop=NO_DROP, **changes):
  if not hasattr(patch_size, "for_image"):
    patch_size = FixedPatchSize(patch_size)
  fields = dict(row_length=1000) | changes
  return Cutter(policy, patch_size, drop, **fields)


def noise(h, w, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (h, w, 3), np.uint8)


def plan(cut, image_hw, rng=None, images_seen=0):
  return cut.plan(image_hw, rng, images_seen, "dir/a.png")


def whole(image, found):
  """Patches and cells of the whole grid, by the device's own code."""
  resized = resize.resize(image, found.image_hw)
  tokens = patchify(resized[None], found.patch_hw)
  return np.asarray(tokens.patches[0]), np.asarray(tokens.coords[0])


@pytest.mark.parametrize("patch_hw", [(8, 8), (4, 6), (1, 1)])
@pytest.mark.parametrize("hw", [(24, 48), (23, 50), (5, 61)])
def test_patches_are_those_of_the_grid(hw, patch_hw):
  cut = cutter(resolution.Native(), patch_hw, row_length=5000)
  image = noise(*hw)
  found = plan(cut, hw)
  patches, cells = cut.cut(image, found, None)
  expected, coords = whole(image, found)
  assert (patches.dtype, cells.dtype) == (np.uint8, np.int32)
  assert patches.shape[1] == cut.patch_bytes
  np.testing.assert_array_equal(patches, expected)
  np.testing.assert_array_equal(cells[:, :2], coords)
  rows, cols = found.grid_hw
  np.testing.assert_array_equal(
    cells[:, 2:], np.tile((rows, cols, 0), (rows * cols, 1))
  )


def test_dropped_patches_are_missing_and_no_other_changes():
  cut = cutter(resolution.Native(), drop=token_drop.Constant(0.4))
  image = noise(48, 80)
  rng = np.random.default_rng(0)
  found = plan(cut, (48, 80), rng)
  assert (found.tokens, found.drop) == (60, 0.4)
  patches, cells = cut.cut(image, found, rng)
  assert len(patches) == len(cells) == 36
  expected, _ = whole(image, found)
  place = cells[:, 0] * 10 + cells[:, 1]
  assert (np.diff(place) > 0).all()
  np.testing.assert_array_equal(patches, expected[place])
  # The grid is that of the whole image: positions do not see the drop.
  assert set(map(tuple, cells[:, 2:])) == {(6, 10, 0)}
  others = cut.cut(image, found, rng)[1]
  assert others.tolist() != cells.tolist()


def test_a_drop_rate_may_be_scheduled():
  drop = token_drop.Scheduled(0.8, 0.2, middle=1000, width=1)
  cut = cutter(resolution.Native(), drop=drop)
  rng = np.random.default_rng(0)
  found = [plan(cut, (48, 80), rng, seen).drop for seen in (0, 1000, 2000)]
  np.testing.assert_allclose(found, [0.8, 0.5, 0.2], rtol=0, atol=1e-12)


SIZES = SampledPatchSize((4, (8, 6), (2, 12)))


def test_mixed_sizes_lie_in_the_top_left_of_the_largest():
  cut = cutter(resolution.Native(), SIZES)
  assert cut.sizes == ((4, 4), (8, 6), (2, 12))
  assert cut.patch_bytes == 8 * 12 * 3
  image, rng = noise(24, 48), np.random.default_rng(0)
  seen = set()
  for _ in range(20):
    found = plan(cut, (24, 48), rng)
    (h, w), index = found.patch_hw, cut.sizes.index(found.patch_hw)
    patches, cells = cut.cut(image, found, rng)
    assert set(cells[:, 4]) == {index}
    room = patches.reshape(-1, 8, 12, 3)
    np.testing.assert_array_equal(
      room[:, :h, :w].reshape(len(patches), -1), whole(image, found)[0]
    )
    assert not room[:, h:].any()
    assert not room[:, :, w:].any()
    seen.add(found.patch_hw)
  assert seen == set(cut.sizes)


def test_a_budget_compares_sizes_at_one_draw():
  policy = resolution.Sampled(32, 256)
  cut = cutter(policy, BudgetPatchSize((8, 16, 32), max_tokens=64))
  chosen = set()
  for seed in range(100):
    found = plan(cut, (300, 400), np.random.default_rng(seed))
    # What the policy makes of the other sizes at that draw.
    draw = int(np.random.default_rng(seed).integers(2**63))
    sizes = [
      policy((300, 400), (p, p), np.random.default_rng(draw))
      for p in (8, 16, 32)
    ]
    tokens = [h * w // p**2 for (h, w), p in zip(sizes, (8, 16, 32))]
    first = next((i for i, n in enumerate(tokens) if n <= 64), 2)
    assert found == Plan(sizes[first], ((8, 8), (16, 16), (32, 32))[first])
    chosen.add(first)
  assert chosen == {0, 1, 2}


def test_the_same_draws_make_the_same_cut():
  cut = cutter(resolution.Sampled(16, 64), SIZES, token_drop.Beta(0.5))
  image = noise(40, 30)

  def made(seed):
    rng = np.random.default_rng(seed)
    found = plan(cut, (40, 30), rng)
    return found, *(x.tobytes() for x in cut.cut(image, found, rng))

  assert made(1) == made(1)
  assert len({made(seed) for seed in range(10)}) == 10


@pytest.mark.parametrize(
  ("image_hw", "options", "grid"),
  [
    ((80, 80), dict(row_length=100), (10, 10)),  # just a row
    ((80, 80), dict(row_length=99), (9, 9)),
    ((40, 400), dict(row_length=100), (3, 31)),
    ((8, 8000), dict(row_length=100), (1, 100)),
    # Where positions end on one side only, the other shrinks with it.
    ((80, 80), dict(largest_grid=(10, 10)), (10, 10)),
    ((80, 80), dict(largest_grid=(7, 12)), (7, 7)),
    ((80, 80), dict(largest_grid=(12, 7)), (7, 7)),
    ((80, 80), dict(largest_grid=(3, 3)), (3, 3)),
    ((40, 400), dict(largest_grid=(9, 10)), (1, 10)),
    ((8, 800), dict(largest_grid=(9, 10)), (1, 10)),
    # A row first, then the positions.
    ((40, 400), dict(row_length=100, largest_grid=(4, 20)), (1, 20)),
  ],
)
def test_a_long_image_is_resized(image_hw, options, grid):
  cut = cutter(resolution.Native(), **options)
  found = plan(cut, image_hw)
  assert found.grid_hw == grid
  assert found.scaled_down == (grid != tuple(side // 8 for side in image_hw))
  patches, cells = cut.cut(noise(*image_hw), found, None)
  assert len(patches) == grid[0] * grid[1] <= cut.row_length
  assert cells[-1].tolist() == [grid[0] - 1, grid[1] - 1, *grid, 0]


@pytest.mark.parametrize(
  ("options", "limit"),
  [
    (dict(row_length=99, drop=token_drop.Constant(0.9)), "a row takes 99"),
    (dict(largest_grid=(9, 20)), "positions end at 9x20"),
    (dict(largest_grid=(20, 9)), "positions end at 20x9"),
  ],
)
def test_a_long_image_can_be_refused(options, limit):
  """By its patches before any is dropped."""
  cut = cutter(resolution.Native(), resize_long=False, **options)
  text = f"^dir/a.png of 80x77 pixels has 10x10 patches, and {limit}: give "
  with pytest.raises(TooLongError, match=text):
    plan(cut, (80, 77), np.random.default_rng(0))
  # What fits is as it would be.
  fits = cutter(resolution.Native(), **options)
  assert plan(cut, (32, 40)) == plan(fits, (32, 40))


@pytest.mark.parametrize("seed", range(12))
def test_plan_is_what_cut_does(seed):
  rng = np.random.default_rng(seed)
  cut = cutter(
    resolution.Sampled(8, 100),
    SIZES,
    token_drop.Beta(0.5),
    row_length=60,
    largest_grid=(9, 11),
  )
  image_hw = tuple(map(int, rng.integers(1, 100, 2)))
  found = plan(cut, image_hw, rng)
  patches, cells = cut.cut(noise(*image_hw), found, rng)
  assert len(patches) == max(1, round(found.tokens * (1 - found.drop)))
  assert set(map(tuple, cells[:, 2:4].tolist())) == {found.grid_hw}
  assert 1 <= found.tokens <= 60
  rows, cols = found.grid_hw
  assert rows <= 9
  assert cols <= 11
