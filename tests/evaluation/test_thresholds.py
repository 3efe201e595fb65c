"""The front of cascades, against trying all of them one by one."""

import itertools
import math

import numpy as np
import pytest
from invented_sweeps import ranked

from flexivit_jax.evaluation.cascade import cascade, thresholds
from flexivit_jax.evaluation.cascade.cascade import STOP, Cascade
from flexivit_jax.evaluation.cascade.thresholds import Choice

SIZES = ((12, 12), (8, 8), (6, 6), (4, 4))
COSTS = dict(zip(SIZES, (1.0, 2.5, 5.0, 11.0)))


def answers(confidence, right):
  return ranked(~np.asarray(right, bool), confidence=confidence)


def random_answers(seed, n, levels, sizes=SIZES):
  """Confidences of few levels, so that many are equal; right ones surer."""
  rng = np.random.default_rng(seed)
  made = {}
  for k, size in enumerate(sizes):
    right = rng.uniform(size=n) < 0.6 + 0.1 * k
    confidence = rng.integers(0, levels, n) + right
    made[size] = answers(confidence / levels, right)
  return made


def all_cascades(sizes, by_size, most, quantiles=None):
  """Every subset of sizes with every threshold that makes a difference; for
  three and more sizes with those at quantiles, where given."""
  for count in range(1, most + 1):
    for chosen in itertools.combinations(sizes, count):
      tried = {size: by_size[size].confidence for size in chosen}
      if quantiles and count > 2:
        tried = quantiles
      candidates = [
        [STOP, *np.unique(tried[size]).tolist()] for size in chosen[:-1]
      ]
      for values in itertools.product(*candidates):
        yield Cascade(chosen, values)


def brute_force(sizes, by_size, costs, most, quantiles=None):
  """The front, image by image."""
  found = []
  for each in all_cascades(sizes, by_size, most, quantiles):
    outcome = cascade.predict(each, by_size)
    found.append(Choice(each, outcome.answers.top(1), outcome.cost(costs)))
  front = []
  for choice in sorted(found, key=lambda c: (c.cost, -c.top1)):
    if not front or choice.top1 > front[-1].top1:
      front.append(choice)
  return tuple(front)


@pytest.mark.parametrize(
  ("most", "count", "levels"), [(1, 4, 9), (2, 4, 40), (3, 3, 7), (4, 4, 3)]
)
def test_the_front_is_that_of_brute_force(most, count, levels, monkeypatch):
  monkeypatch.setattr(thresholds, "MAX_STAGES", most)
  sizes = SIZES[:count]
  by_size = random_answers(0, 30, levels, sizes)
  front = thresholds.front(sizes, by_size, COSTS)
  # Exactly, also which of equals is taken.
  assert front == brute_force(sizes, by_size, COSTS, most)
  assert len(front) > 1


def test_three_sizes_and_many_images_have_thresholds_at_quantiles(monkeypatch):
  rng = np.random.default_rng(0)
  sizes, n, most = SIZES[1:], 64, 6
  # What a size can do, the smaller ones can; each is surer of what it can.
  hard = rng.uniform(size=n)
  by_size = {}
  for able, size in zip((0.3, 0.6, 0.9), sizes):
    felt = 4 * (hard - able) + rng.normal(0, 0.3, n)
    by_size[size] = answers(1 / (1 + np.exp(felt)), hard < able)
  costs = dict(zip(sizes, (1.0, 8.0, 64.0)))
  exact = thresholds.front(sizes, by_size, costs)
  monkeypatch.setattr(thresholds, "MAX_CELLS", (most + 1) ** 2)
  front = thresholds.front(sizes, by_size, costs)
  # A sixth of the 63 steps from the least confidence to the most is 10.5.
  places = [11, 21, 32, 42, 53, 63]
  quantiles = {s: np.sort(x.confidence)[places] for s, x in by_size.items()}
  assert front == brute_force(sizes, by_size, costs, 3, quantiles)
  assert front != exact
  assert any(len(choice.cascade.sizes) == 3 for choice in front)


def test_what_is_no_probability():
  """NaN goes on at any threshold, and what rounding made more than 1 at 1."""
  pair = (SIZES[0], SIZES[3])
  small = answers(np.full(4, 0.5), np.ones(4))

  def best(confidence, right):
    by_size = {SIZES[0]: answers(confidence, right), SIZES[3]: small}
    choice = thresholds.front(pair, by_size, COSTS)[-1]
    stages = cascade.predict(choice.cascade, by_size).stages.tolist()
    return choice, stages

  choice, stages = best([1 + 1e-6, math.nan, 0.5, 1.0], [1, 0, 1, 1])
  assert choice == Choice(Cascade(pair, (0.0,)), 1.0, 1 + 11 / 4)
  assert stages == [0, 1, 0, 0]
  # As dear as both sizes for all images, so the smaller alone is taken.
  choice, stages = best([1 + 1e-6, 0.5, 0.5, 0.5], [0, 0, 1, 1])
  assert choice == Choice(Cascade((SIZES[3],)), 1.0, 11)
  assert stages == [0] * 4


FRONT = (
  Choice(Cascade((SIZES[0],)), 0.5, 1.0),
  Choice(Cascade((SIZES[0], SIZES[3]), (0.25,)), 0.75, 4.0),
  Choice(Cascade((SIZES[3],)), 0.8, 11.0),
)


def test_the_cheapest_for_an_accuracy():
  for target, i in ((0.0, 0), (0.5, 0), (0.51, 1), (0.75, 1), (0.8, 2)):
    assert thresholds.for_accuracy(FRONT, target) is FRONT[i]


@pytest.mark.parametrize(
  ("target", "message"),
  [
    (0.805, "no cascade reaches 80.5 % .*: the most is 80 %, by 4"),
    (80.5, "target 80.5: give a share of images, 0 to 1"),
  ],
)
def test_a_target_out_of_reach_is_refused(target, message):
  with pytest.raises(ValueError, match=message):
    thresholds.for_accuracy(FRONT, target)


@pytest.mark.parametrize("cost", [0.0, -1.0, math.nan, math.inf, None])
def test_a_cost_is_a_positive_number(cost):
  by_size, costs = random_answers(0, 5, 3), dict(COSTS)
  del costs[6, 6]
  if cost is not None:
    costs[6, 6] = cost
  with pytest.raises(ValueError, match=f"cost {cost} .* size 6: give a pos"):
    thresholds.front(SIZES, by_size, costs)
