"""Resolution policies against the released rules, their laws, their draws."""

import math
import pathlib
import re

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


def test_clamping_to_a_budget_keeps_whole_grids():
  # An image that is as many patches as the budget stays as it is.
  for rows in range(1, 40):
    for cols in range(1, 40):
      for k in (1, 7, 11):
        kept = floor_to_budget((rows * k, cols * k), (16, 16), rows * cols)
        assert kept == (16 * rows, 16 * cols)


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


@pytest.mark.parametrize(
  ("side", "rows"), [(1, 1), (16, 1), (23, 1), (24, 2), (39, 2), (40, 3)]
)
def test_native_rounds_to_the_nearest_patch(side, rows):
  assert grid(Native(), (side, 160)) == (rows, 10)
  assert grid(Native(), (160, side)) == (10, rows)


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


def test_a_sampled_resolution_depends_on_seed_epoch_and_index_alone():
  policy = Sampled(64, 256)

  def drawn(seed, epoch, index):
    return policy((300, 400), (1, 1), Draws(seed)(epoch, index))

  assert drawn(0, 1, 2) == drawn(0, 1, 2)
  others = {drawn(0, 1, 2), drawn(1, 1, 2), drawn(0, 2, 2), drawn(0, 1, 3)}
  assert len(others) == 4


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: Square(48)((48, 48), (8, 9), None), "48 pixels is not a whole"),
    (lambda: Square(0), "side is 0: give 1 to 16384 pixels"),
    (lambda: Pix2Struct(2**20 + 1), "max_patches is 1048577: give 1 to"),
    (lambda: NaFlex(-1), "max_patches is -1: give 1 to 1048576 patches"),
    (lambda: Native(0), "max_patches is 0: give 1 to 1048576 patches"),
    (lambda: Sampled(1, 2, max_patches=0), "max_patches is 0: give 1 to"),
    (lambda: Sampled(64, 63), "low is 64 and high 63: give 1 <= low <= high"),
    (lambda: Sampled(1, 2, by="edge"), "by is 'edge': give 'side' or 'area'"),
    (lambda: Sampled(1, 2, distribution="normal"), "distribution is 'normal':"),
    (lambda: Sampled(1, 2, mean=2.5), "mean is 2.5: give -2 to 2"),
    (lambda: Sampled(1, 2, std=math.nan), "std is nan: give 0.1 to 100"),
    (lambda: Sampled(1, 2, mean=1.5, std=0.1), "mean is 1.5 and std 0.1"),
  ],
)
def test_refusals(make, text):
  with pytest.raises(ValueError, match=re.escape(text)):
    make()
