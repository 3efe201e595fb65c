"""The terminal's table, letter by letter."""

import dataclasses

import invented_sweeps
import numpy as np
import pytest

from flexivit_jax.evaluation import table
from flexivit_jax.evaluation.settings import Cost, Point, Setting


def sweep_of(points, classes):
  empty = invented_sweeps.small(images=5, classes=classes)
  return dataclasses.replace(empty, points=tuple(points), answers=())


POINTS = (
  Point(
    Setting((16, 16), (240, 240)),
    *(225, 500, 0.978, 1.0, 0.08123, 0.0151),
    Cost(4.61e9, 700 * 2**20, 12.0, (0.0123, 0.02), 98.44),
  ),
  Point(
    Setting((8, 16), (160, 240)),
    *(450, 500, 0.05, 0.2, 12.3456, 0.5),
    Cost(9.876e9, 1234 * 2**20, 12.0, (0.5, 1.0), 12345.6),
  ),
)


def test_the_table():
  assert table.table(sweep_of(POINTS, 10)).split("\n") == [
    "patch    image  tokens  GFLOP  top-1 %  top-5 %     loss  ECE %    ms"
    "  p95 ms  images/s   MiB",
    "   16      240     225   4.61     97.8    100.0   0.0812    1.5  12.3"
    "    20.0      98.4   700",
    " 8x16  160x240     450   9.88      5.0     20.0  12.3456   50.0   500"
    "    1000     12346  1234",
  ]


def heads(sweep):
  return [c.head for c in table.columns(sweep.points, len(sweep.classes))]


def test_columns_that_say_nothing_are_left_out():
  assert "top-5 %" not in heads(invented_sweeps.small(classes=5))
  assert {"top-5 %", "ms"} <= {*heads(invented_sweeps.small(classes=6))}
  bare = heads(invented_sweeps.small(latency=False))
  assert not {"ms", "p95 ms", "images/s"} & {*bare}


def test_one_point_without_a_latency_has_a_dash():
  bare = dataclasses.replace(POINTS[1].cost, latency_s=None)
  points = (POINTS[0], dataclasses.replace(POINTS[1], cost=bare))
  ms = next(c for c in table.columns(points, 10) if c.head == "ms")
  assert ms.cells == ("12.3", "-")
  assert ms.values[0] == pytest.approx(12.3)
  assert np.isnan(ms.values[1])


def test_budgets_have_a_column_of_their_own():
  budgets = invented_sweeps.sweep(
    invented_sweeps.settings((16, 8), budgets=(64, 256))
  )
  assert heads(budgets)[:3] == ["patch", "budget", "tokens"]
  text = table.table(budgets).split("\n")
  assert text[1].split()[:3] == ["16", "64", "59.5"]
  mixed = invented_sweeps.sweep(
    invented_sweeps.settings((16,), sides=(240,), budgets=(64,))
  )
  image = next(c for c in table.columns(mixed.points, 10) if c.head == "image")
  assert image.cells == ("240", "64 tokens")


@pytest.mark.parametrize(
  ("least", "unit"), [(9.9e7, "MFLOP"), (1e8, "GFLOP"), (1e11, "TFLOP")]
)
def test_the_unit_suits_the_cheapest_point(least, unit):
  points = [
    dataclasses.replace(p, cost=dataclasses.replace(p.cost, multiply_adds=x))
    for p, x in zip(POINTS, (30 * least, least))
  ]
  assert table.flop_unit(points)[0] == unit
