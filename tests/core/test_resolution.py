"""Resolution policies against the released rules, their laws, their draws."""

import math
import pathlib

import numpy as np
import pytest

from flexivit_jax.core.resolution import (
  NaFlex,
  Native,
  Pix2Struct,
  Sampled,
  Square,
  floor_to_budget,
)
from flexivit_jax.data.loading.order import Draws

DATA = pathlib.Path(__file__).parents[1] / "data"


def grid(policy, image_hw, patch_hw=(16, 16), rng=None):
  """(rows, cols); the sides must be whole patches."""
  (h, w), (ph, pw) = policy(image_hw, patch_hw, rng), patch_hw
  assert h % ph == w % pw == 0
  assert all(type(side) is int for side in (h, w))
  return h // ph, w // pw


def random_cases(n, seed=0):
  """(image_hw, patch_hw, budget): usual sizes, and 1xN and Nx1 ones."""
  rng = np.random.default_rng(seed)
  for i in range(n):
    hw = [int(x) for x in np.exp(rng.uniform(0, math.log(6000), 2))]
    if i % 10 < 2:
      hw[i % 10] = 1
    patch_hw = tuple(map(int, rng.integers(1, 40, 2)))
    yield tuple(hw), patch_hw, int(rng.integers(1, 2000))


def test_a_square_is_the_same_for_every_image():
  for image_hw in ((1, 1), (480, 640), (1, 5000)):
    assert Square(48)(image_hw, (8, 12), None) == (48, 48)


def test_a_square_of_no_whole_patches_is_refused():
  with pytest.raises(ValueError) as caught:
    Square(48)((48, 48), (8, 9), None)
  assert str(caught.value) == (
    "a side of 48 pixels is not a whole number of 8x9 patches: give a multiple "
    "of both sides"
  )


def test_the_example_of_pix2struct():
  # Scale 0.7155: 100 x 200 becomes 71.55 x 143.1, which holds 2 x 4 patches.
  assert math.sqrt(10 * (32 / 100) * (32 / 200)) == pytest.approx(0.7155, 1e-4)
  assert Pix2Struct(10)((100, 200), (32, 32), None) == (64, 128)


def test_pix2struct_equals_the_released_rule():
  table = np.load(DATA / "pix2struct_grid_rule.npz")["table"]
  assert len(table) == 200
  for h, w, patch, budget, rows, cols in table.tolist():
    found = grid(Pix2Struct(budget), (h, w), (patch, patch))
    assert found == (rows, cols), (h, w, patch, budget)


@pytest.mark.parametrize(
  ("image_hw", "budget", "expected"),
  [
    # arXiv:2210.03347's code: aspect errors of 3.7 % and 8.7 %.
    ((480, 640), 256, (13, 18)),
    ((1000, 300), 256, (29, 8)),
    # So long that a side gets its one patch, and the other side all others.
    ((1, 5000), 256, (1, 256)),
    ((5000, 1), 256, (256, 1)),
    ((1, 1), 1, (1, 1)),
    ((5000, 7), 1, (1, 1)),
    # In floats, as released, a side may lose the patch that it ends on.
    ((49, 49), 256, (15, 15)),
    ((17 * 11, 11), 17, (16, 1)),
  ],
)
def test_grids_of_pix2struct(image_hw, budget, expected):
  assert grid(Pix2Struct(budget), image_hw) == expected


def test_pix2struct_keeps_to_its_budget_and_nearly_uses_it():
  for image_hw, patch_hw, budget in random_cases(3000):
    rows, cols = grid(Pix2Struct(budget), image_hw, patch_hw)
    assert min(rows, cols) >= 1
    assert rows * cols <= budget
    if min(rows, cols) > 1:
      # Each side lost less than one patch.
      assert (rows + 1) * (cols + 1) > budget


def test_pix2struct_sees_the_shape_of_an_image_not_its_size():
  for image_hw, patch_hw, budget in random_cases(1000, seed=1):
    scaled = tuple(7 * side for side in image_hw)
    policy = Pix2Struct(budget)
    assert policy(image_hw, patch_hw, None) == policy(scaled, patch_hw, None)


def test_clamping_to_a_budget_keeps_whole_grids():
  # An image that is as many patches as the budget stays as it is.
  for rows in range(1, 40):
    for cols in range(1, 40):
      for k in (1, 7, 11):
        kept = floor_to_budget((rows * k, cols * k), (16, 16), rows * cols)
        assert kept == (16 * rows, 16 * cols)


def test_clamping_is_pix2struct_but_for_whole_grids():
  for image_hw, patch_hw, budget in random_cases(1000, seed=2):
    kept = floor_to_budget(image_hw, patch_hw, budget)
    released = Pix2Struct(budget)(image_hw, patch_hw, None)
    for a, b, p in zip(kept, released, patch_hw, strict=True):
      assert a - b in (0, p)


def naflex_by_search(image_hw, patch_hw, budget, eps=1e-5):
  """SigLIP 2's rule, written from big_vision's ops_naflex.py."""
  h, w = image_hw
  low, high = eps / 10, 100.0
  while high - low >= eps:
    middle = (low + high) / 2
    rows = max(-(-(h * middle) // patch_hw[0]), 1)
    cols = max(-(-(w * middle) // patch_hw[1]), 1)
    low, high = (middle, high) if rows * cols <= budget else (low, middle)
  return tuple(
    int(max(-(-(side * low) // p), 1))
    for side, p in zip(image_hw, patch_hw, strict=True)
  )


def test_naflex_equals_the_rule_written_again():
  for image_hw, patch_hw, budget in random_cases(1000, seed=2):
    found = grid(NaFlex(budget), image_hw, patch_hw)
    assert found == naflex_by_search(image_hw, patch_hw, budget)


def test_naflex_is_the_largest_grid_that_fits():
  for image_hw, patch_hw, budget in random_cases(1000, seed=3):
    rows, cols = grid(NaFlex(budget), image_hw, patch_hw)
    assert 1 <= rows * cols <= budget
    # The scale at which the next row or column begins, and a little more than
    # the bisection's 1e-5.
    scale = 2e-5 + min(
      n * p / side
      for n, p, side in zip((rows, cols), patch_hw, image_hw, strict=True)
    )
    if scale < 100:  # as far as the rule looks
      more = math.prod(
        math.ceil(side * scale / p)
        for side, p in zip(image_hw, patch_hw, strict=True)
      )
      assert more > budget


def test_native_sizes_of_one_row():
  # 1,344 tokens of three images, at patch 14.
  sizes = ((224, 224), (448, 224), (336, 336))
  grids = [grid(Native(), hw, (14, 14)) for hw in sizes]
  assert grids == [(16, 16), (32, 16), (24, 24)]
  assert [r * c for r, c in grids] == [256, 512, 576]
  assert sum(r * c for r, c in grids) == 1344


@pytest.mark.parametrize(
  ("side", "rows"), [(1, 1), (16, 1), (23, 1), (24, 2), (39, 2), (40, 3)]
)
def test_native_rounds_to_the_nearest_patch(side, rows):
  assert grid(Native(), (side, 160)) == (rows, 10)
  assert grid(Native(), (160, side)) == (10, rows)


def test_native_with_a_limit_is_pix2struct_beyond_it():
  for image_hw, patch_hw, budget in random_cases(500, seed=4):
    whole = grid(Native(), image_hw, patch_hw)
    found = grid(Native(budget), image_hw, patch_hw)
    if math.prod(whole) <= budget:
      assert found == whole
    else:
      assert found == grid(Pix2Struct(budget), image_hw, patch_hw)


def resolutions(policy, n=8000, image_hw=(300, 400)):
  """Square roots of the areas that were drawn; patches of a pixel."""
  draws = Draws(0)
  sizes = [policy(image_hw, (1, 1), draws(0, i)) for i in range(n)]
  return np.sqrt(np.array([h * w for h, w in sizes], float))


def normal_cdf(x):
  return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def cut_normal_cdf(u, mean, std):
  low, high, at = (normal_cdf((x - mean) / std) for x in (-1, 1, u))
  return (at - low) / (high - low)


@pytest.mark.parametrize("by", ["side", "area"])
@pytest.mark.parametrize(
  ("distribution", "mean", "std"),
  [
    ("uniform", 0.0, 1.0),
    ("truncated_normal", 0.0, 1.0),
    ("truncated_normal", -0.5, 1.0),
    ("truncated_normal", 0.5, 0.3),
  ],
)
def test_resolutions_are_distributed_as_they_say(by, distribution, mean, std):
  low, high, n = 640, 3840, 8000
  policy = Sampled(low, high, by, distribution, mean, std)
  drawn = np.sort(resolutions(policy, n))
  # Rounding a side of some hundred pixels to whole ones changes the root of
  # the area by less than one pixel.
  assert low - 1 <= drawn[0]
  assert drawn[-1] <= high + 1
  power = 1 if by == "side" else 2
  share = (drawn**power - low**power) / (high**power - low**power)
  u = np.clip(2 * share - 1, -1, 1)
  cdf = (
    (u + 1) / 2
    if distribution == "uniform"
    else np.array([cut_normal_cdf(x, mean, std) for x in u])
  )
  distance = np.abs(cdf - (np.arange(n) + 0.5) / n).max()
  # Kolmogorov and Smirnov: beyond 1.95 / sqrt(n) for one in a thousand of
  # right samplers; these draws are fixed. The other distributions here are
  # farther than 0.05 from each other.
  assert distance < 1.95 / math.sqrt(n)


def test_a_fixed_resolution_keeps_the_aspect_up_to_rounding():
  policy = Sampled(128, 128)
  for h, w in ((300, 400), (37, 91), (1000, 200), (64, 64)):
    for patch in (1, 8, 16):
      rows, cols = grid(policy, (h, w), (patch, patch), Draws(0)(0, 0))
      exact = math.sqrt(h / w) * 128, math.sqrt(w / h) * 128
      assert abs(rows * patch - exact[0]) <= patch / 2
      assert abs(cols * patch - exact[1]) <= patch / 2


def test_a_sampled_resolution_depends_on_seed_epoch_and_index_alone():
  policy = Sampled(64, 256)

  def drawn(seed, epoch, index):
    return policy((300, 400), (1, 1), Draws(seed)(epoch, index))

  assert drawn(0, 1, 2) == drawn(0, 1, 2)
  others = {drawn(0, 1, 2), drawn(1, 1, 2), drawn(0, 2, 2), drawn(0, 1, 3)}
  assert len(others) == 4


def test_a_sampled_resolution_can_have_a_budget():
  policy = Sampled(16, 512, max_patches=100)
  draws = Draws(0)
  grids = [grid(policy, (300, 400), rng=draws(0, i)) for i in range(300)]
  tokens = [r * c for r, c in grids]
  assert max(tokens) <= 100
  # 11.5 by 8.66: what was drawn larger has the grid of the budget.
  assert grids.count((8, 11)) > 100
  assert len(set(grids)) > 15


def test_long_images_have_a_patch_a_side():
  for image_hw in ((1, 9000), (9000, 1)):
    rows, cols = grid(Sampled(64, 64), image_hw, rng=Draws(0)(0, 0))
    assert min(rows, cols) == 1


BUDGET = "give 1 to 1048576 patches"
RANGE = "give 1 <= low <= high <= 16384 pixels"


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: Square(0), "side is 0: give 1 to 16384 pixels"),
    (lambda: Square(16_385), "side is 16385: give 1 to 16384 pixels"),
    (lambda: Pix2Struct(0), f"max_patches is 0: {BUDGET}"),
    (lambda: Pix2Struct(2**20 + 1), f"max_patches is 1048577: {BUDGET}"),
    (lambda: NaFlex(-1), f"max_patches is -1: {BUDGET}"),
    (lambda: Native(0), f"max_patches is 0: {BUDGET}"),
    (lambda: Sampled(1, 2, max_patches=0), f"max_patches is 0: {BUDGET}"),
    (lambda: Sampled(0, 2), f"low is 0 and high 2: {RANGE}"),
    (lambda: Sampled(64, 63.5), f"low is 64 and high 63.5: {RANGE}"),
    (lambda: Sampled(1, 16385), f"low is 1 and high 16385: {RANGE}"),
    (lambda: Sampled(math.nan, 2), f"low is nan and high 2: {RANGE}"),
    (lambda: Sampled(1, 2, by="edge"), "by is 'edge': give 'side' or 'area'"),
    (
      lambda: Sampled(1, 2, distribution="normal"),
      "distribution is 'normal': give 'uniform' or 'truncated_normal'",
    ),
    (lambda: Sampled(1, 2, mean=2.5), "mean is 2.5: give -2 to 2"),
    (lambda: Sampled(1, 2, std=0.05), "std is 0.05: give 0.1 to 100"),
    (lambda: Sampled(1, 2, std=math.nan), "std is nan: give 0.1 to 100"),
    (
      lambda: Sampled(1, 2, mean=1.5, std=0.1),
      "mean is 1.5 and std 0.1: hardly a draw falls into -1 to 1; give a mean "
      "in it",
    ),
  ],
)
def test_refusals(make, text):
  with pytest.raises(ValueError) as caught:
    make()
  assert str(caught.value) == text


def test_the_farthest_means_still_draw():
  # A share of 1e-3 or so falls into [-1, 1]: slow, but it ends.
  for policy in (
    Sampled(64, 256, "side", "truncated_normal", 1.3, 0.1),
    Sampled(64, 256, "side", "truncated_normal", -2, 0.34),
  ):
    drawn = resolutions(policy, 3)
    assert len(set(drawn)) >= 2
