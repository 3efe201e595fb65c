"""Token drop: the rates' distributions, and which patches are kept."""

import itertools
import math
import re

import numpy as np
import pytest

from flexivit_jax.core.token_drop import (
  MAX_RATE,
  Beta,
  ByResolution,
  Constant,
  Scheduled,
  kept,
)


def rates(policy, n=20_000, tokens=100, images_seen=0):
  rng = np.random.default_rng(0)
  return np.array([policy(tokens, rng, images_seen) for _ in range(n)])


@pytest.mark.parametrize(
  ("mean", "most", "spread"),
  [(0.5, 0.9, 0.3), (0.1, 0.4, 0.3), (0.5, 0.6, 0.1)],
)
def test_beta_has_the_moments_of_the_paper(mean, most, spread):
  drawn = rates(Beta(mean, most, spread))
  u, m = drawn / most, mean / most
  assert drawn.min() >= 0
  assert drawn.max() <= most
  # Five standard errors of a mean of 20,000.
  error = math.sqrt(spread * m * (1 - m) / len(u))
  assert abs(u.mean() - m) < 5 * error
  assert u.var() == pytest.approx(spread * m * (1 - m), rel=0.05)


@pytest.mark.parametrize(
  ("tokens", "mean"),
  [(8, 0.2), (16, 0.2), (136, 0.4), (196, 0.5), (256, 0.6), (900, 0.6)],
)
@pytest.mark.parametrize("falling", [False, True])
def test_larger_images_lose_more(tokens, mean, falling):
  ends = (0.6, 0.2) if falling else (0.2, 0.6)
  expected = 0.8 - mean if falling else mean
  policy = ByResolution(ends, (16, 256), std=0.05)
  drawn = rates(policy, 4000, tokens)
  # Cut at two standard deviations, which leaves 0.88 of one.
  assert np.abs(drawn - expected).max() <= 2 * 0.05 + 1e-12
  assert np.abs(drawn - expected).max() > 1.9 * 0.05
  assert drawn.mean() == pytest.approx(expected, abs=5 * 0.05 / 4000**0.5)
  assert drawn.std() == pytest.approx(0.88 * 0.05, rel=0.05)


def test_rates_by_resolution_stay_rates():
  low = rates(ByResolution((0.0, 0.99), (2, 3), std=0.5), 500, tokens=2)
  high = rates(ByResolution((0.0, 0.99), (2, 3), std=0.5), 500, tokens=3)
  assert (low.min(), high.max()) == (0.0, MAX_RATE)
  assert low.max() <= MAX_RATE
  assert set(rates(ByResolution((0.1, 0.3), (2, 4), std=0.0), 5, 3)) == {0.2}


def test_a_schedule_is_a_sigmoid():
  policy = Scheduled(start=0.8, end=0.2, middle=1000, width=100)
  sigmoid = 1 / (1 + math.exp(-1))
  for seen, share in (
    (1000, 0.5),
    (1100, sigmoid),
    (900, 1 - sigmoid),
    (0, 1 / (1 + math.exp(10))),
    (10**12, 1.0),  # where exp would overflow
    (-(10**12), 0.0),
  ):
    rate = policy(100, None, seen)
    assert rate == pytest.approx(0.8 - 0.6 * share, abs=1e-12)
  path = [policy(100, None, n) for n in range(0, 2000, 10)]
  assert all(a > b for a, b in itertools.pairwise(path))


@pytest.mark.parametrize(
  ("tokens", "rate", "count"),
  [
    (100, 0.0, 100),
    (100, 0.3, 70),
    (100, 0.99, 1),
    (7, 0.5, 4),  # 3.5, to the even one
    (5, 0.5, 2),
    (1, 0.99, 1),
    (3, 0.99, 1),
  ],
)
def test_so_many_are_kept(tokens, rate, count):
  chosen = kept(tokens, rate, np.random.default_rng(0))
  assert chosen.dtype == np.int64
  assert len(chosen) == count
  assert (np.diff(chosen) > 0).all()  # in order, each once
  assert 0 <= chosen[0]
  assert chosen[-1] < tokens


def test_every_patch_is_kept_as_often():
  rng, n, tokens = np.random.default_rng(0), 4000, 20
  counts = np.zeros(tokens)
  pairs = 0
  for _ in range(n):
    chosen = kept(tokens, 0.7, rng)
    counts[chosen] += 1
    pairs += 1 in chosen and 0 in chosen
  # Five standard deviations of a binomial share.
  assert np.abs(counts / n - 0.3).max() < 5 * math.sqrt(0.3 * 0.7 / n)
  # Neighbours no more often together than others: 6/20 * 5/19.
  p = 6 / 20 * 5 / 19
  assert abs(pairs / n - p) < 5 * math.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: Constant(1.0), "rate is 1: give 0 to 0.99"),
    (lambda: Beta(0.5, max=1.0), "max is 1: give 0 to 0.99"),
    (lambda: Beta(0.9), "mean is 0.9 and max 0.9: give 0 < mean < max"),
    (lambda: Beta(0.5, spread=1), "spread is 1: give 0 < spread < 1"),
    (lambda: ByResolution((-0.5, 0.1), (1, 2)), "rates is -0.5: give 0 to"),
    (lambda: ByResolution((0.1, 0.2), (5, 5)), "(5, 5): give 1 <= fewest"),
    (lambda: ByResolution((0, 0.2), (1, 2), std=0.6), "std is 0.6: give 0 to"),
    (lambda: Scheduled(1.0, 0.2, 5, 5), "start is 1: give 0 to 0.99"),
    (lambda: Scheduled(0.2, 1.0, 5, 5), "end is 1: give 0 to 0.99"),
    (lambda: Scheduled(0.2, 0.8, 5, 0), "width is 0: give more than 0 images"),
  ],
)
def test_refusals(make, text):
  with pytest.raises(ValueError, match=re.escape(text)):
    make()
