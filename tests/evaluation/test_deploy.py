"""Limits from text, and the point to deploy under them."""

import dataclasses

import invented_sweeps
import numpy as np
import pytest

from flexivit_jax.evaluation import deploy
from flexivit_jax.evaluation.settings import Cost, Point, Setting


def point(patch, top1, *, macs=1e9, ms=None, tokens=64, mib=100):
  latency = None if ms is None else (ms / 1e3, ms / 1e3)
  cost = Cost(macs, int(mib * 2**20), 1.0, latency)
  setting = Setting((patch, patch), (240, 240))
  return Point(setting, tokens, 10, top1, 1.0, 1.0, 0.1, cost)


@pytest.mark.parametrize(
  ("text", "most", "unit"),
  [
    ("5ms", 5, "ms"),
    (" .5  S ", 0.5, "s"),
    ("10 gflops", 10, "GFLOP"),
    ("1e3 MFLOPs", 1000, "MFLOP"),
    ("1 token", 1, "tokens"),
    ("1.5GiB", 1.5, "GiB"),
  ],
)
def test_a_limit_is_a_number_and_a_unit(text, most, unit):
  limit = deploy.parse_limit(text)
  assert (limit.most, limit.unit.name) == (most, unit)
  assert deploy.parse_limit(str(limit)) == limit


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("5,5 ms", "'5,5 ms' is .*: give a number and one of ms, s, MFLOP"),
    ("5", "'5' has no unit: give a number"),
    ("5 GFLOP/s", "'5 GFLOP/s' has an unknown unit; GFLOP is one: give"),
    ("5 horses", "'5 horses' has an unknown unit: give"),
    ("0 ms", "'0 ms': give a number above 0"),
    ("1e999 ms", "'1e999 ms': give a number above 0"),
  ],
)
def test_other_text_is_refused(text, message):
  with pytest.raises(ValueError, match=message):
    deploy.parse_limit(text)


def deployed(points, text):
  chosen = deploy.deploy(points, deploy.parse_limit(text))
  return chosen and chosen.setting.patch_hw[0]


def test_the_most_accurate_point_under_each_kind_of_limit():
  points = [
    point(32, 0.7, macs=1e9, ms=1, tokens=49, mib=100),
    point(16, 0.8, macs=4e9, ms=4, tokens=196, mib=200),
    point(8, 0.9, macs=2e10, ms=20, tokens=784, mib=2000),
  ]
  for patch, limits in (
    (16, ("5 ms", "0.005 s", "5 GFLOP", "200 tokens", "250 MiB")),
    (8, ("1 s", "0.1 TFLOP", "1000 tokens", "2 GiB")),
    (None, ("0.1 ms", "10 MFLOP", "1 tokens", "1 MiB")),
  ):
    assert [deployed(points, x) for x in limits] == [patch] * len(limits)


def test_of_equal_accuracy_the_cheaper_one():
  points = [point(8, 0.8, ms=4), point(16, 0.8, ms=3), point(32, 0.8, ms=3.5)]
  assert deployed(points, "5 ms") == 16
  # Of equal latency too, that of fewer multiply-adds.
  points = [point(8, 0.8, ms=4, macs=2e9), point(16, 0.8, ms=4, macs=1e9)]
  assert deployed(points, "5 ms") == 16


def test_the_recommendation_is_one_line():
  def said(points, text):
    return deploy.recommendation(points, deploy.parse_limit(text))

  points = [point(16, 0.8123, ms=3.214), point(32, 0.7, ms=1, macs=2e8)]
  assert said(points, "5 ms") == (
    "under 5 ms: patch 16 at 240 px, 81.2 % top-1, 3.21 ms"
  )
  assert "the nearest is patch 32 at 240 px with 1 ms" in said(points, "0.5 ms")
  assert "measured at no point" in said([point(16, 0.8)], "5 ms")


def beaten(points, here):
  return any(
    other.top1 >= here.top1
    and other.tokens <= here.tokens
    and (other.top1, other.tokens) != (here.top1, here.tokens)
    for other in points
  )


def test_the_front_is_what_no_point_beats():
  for seed in range(50):
    rng = np.random.default_rng(seed)
    # Few values, so that ties are frequent.
    points = [
      point(8, a / 5, tokens=int(t))
      for a, t in zip(rng.integers(0, 6, 12), rng.integers(1, 6, 12))
    ]
    front = deploy.pareto(points, deploy.tokens)
    assert sorted(front) == [
      i for i in range(12) if not beaten(points, points[i])
    ]
    costs = [points[i].tokens for i in front]
    assert costs == sorted(costs)


def test_the_most_accurate_point_is_that_under_no_limit():
  points = invented_sweeps.grid().points
  limit = deploy.parse_limit("1e9 TFLOP")
  assert deploy.most_accurate(points) == deploy.deploy(points, limit)
  twice = [dataclasses.replace(p, top1=0.5) for p in points]
  cheapest = min(p.cost.multiply_adds for p in points)
  assert deploy.most_accurate(twice).cost.multiply_adds == cheapest
