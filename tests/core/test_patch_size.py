"""Patch sizes are a function of (seed, step), and nothing else."""

import math
import re

import numpy as np
import pytest

from flexivit_jax.core.patch_size import (
  BudgetPatchSize,
  FixedPatchSize,
  SampledPatchSize,
  ScheduledPatchSize,
)
from flexivit_jax.core.sizes import as_hw

FLEXIVIT = SampledPatchSize((48, 40, 30, 24, 20, 16, 15, 12, 10, 8))


def draws(policy, steps, seed=0):
  return [policy(step, seed) for step in steps]


def test_the_size_of_a_step_does_not_depend_on_other_steps():
  forward = draws(FLEXIVIT, range(50))
  again = SampledPatchSize(FLEXIVIT.choices)
  backward = draws(again, reversed(range(50)))
  assert forward == backward[::-1]
  assert [again(49, 0)] * 3 == [forward[49]] * 3


def test_the_sequence_of_seed_0_is_what_it_was():
  # A run that resumes must draw what it would have drawn: a change of the hash
  # fails here, and would need a new name in the config.
  sides = [h for h, _ in draws(FLEXIVIT, range(12))]
  assert sides == [40, 16, 30, 24, 10, 20, 30, 16, 8, 40, 16, 48]
  sides = [h for h, _ in draws(FLEXIVIT, [10**6, 10**9], seed=2**40)]
  assert sides == [20, 40]


@pytest.mark.parametrize(
  "probabilities", [None, (0.7, 0.2, 0.1, 0.0), (0.0, 0.0, 0.0, 1.0)]
)
def test_frequencies_are_the_probabilities(probabilities):
  policy = SampledPatchSize((4, 6, 8, (12, 6)), probabilities)
  n = 4000
  drawn = draws(policy, range(n), seed=1)
  for size, p in zip(policy.sizes, probabilities or [1 / 4] * 4, strict=True):
    # Four standard deviations of a binomial share: 1 in 16,000 for each of
    # these fixed draws. Exact for a probability of 0 or 1.
    tolerance = 4 * math.sqrt(p * (1 - p) / n)
    assert abs(drawn.count(size) / n - p) <= tolerance


def tokens_of(image_hw):
  """How many patches an image has, sides rounded up."""
  return lambda size: math.prod(
    -(-side // p) for side, p in zip(image_hw, size, strict=True)
  )


@pytest.mark.parametrize(
  ("image_hw", "size"),
  [
    ((16, 16), (4, 4)),  # 16 patches of 4, just the budget
    ((16, 20), (8, 4)),  # 20 of 4, 10 of 8x4
    ((32, 32), (8, 8)),  # 64, 32, 16
    ((33, 32), (16, 16)),  # 20 of 8
    ((999, 999), (16, 16)),  # more in any case
  ],
)
def test_a_budget_takes_the_smallest_patches_that_meet_it(image_hw, size):
  for choices in ((4, (8, 4), 8, 16), (16, 8, 4, (8, 4))):
    policy = BudgetPatchSize(choices, max_tokens=16)
    assert policy.for_image(tokens_of(image_hw), None) == size
    assert policy.sizes == tuple(as_hw(choice) for choice in choices)


CURRICULUM = ScheduledPatchSize(
  choices=(48, 32, (16, 8)),
  steps=(100, 500, 900),
  probabilities=((1, 0, 0), (0, 1, 0), (0.0, 0.25, 0.75)),
)


@pytest.mark.parametrize(
  ("step", "probabilities"),
  [
    (0, (1, 0, 0)),
    (100, (1, 0, 0)),
    (200, (0.75, 0.25, 0)),
    (500, (0, 1, 0)),
    (700, (0, 0.625, 0.375)),
    (900, (0, 0.25, 0.75)),
    (10**9, (0, 0.25, 0.75)),
  ],
)
def test_probabilities_move_from_step_to_step(step, probabilities):
  assert CURRICULUM.at(step) == pytest.approx(probabilities, abs=1e-12)


def test_a_curriculum_goes_from_large_to_small():
  assert CURRICULUM.sizes == ((48, 48), (32, 32), (16, 8))
  drawn = draws(CURRICULUM, range(2000), seed=3)
  assert set(drawn[:101]) == {(48, 48)}
  assert set(drawn[101:500]) == {(48, 48), (32, 32)}
  assert drawn[500] == (32, 32)
  end = drawn[900:]
  assert set(end) == {(32, 32), (16, 8)}
  # Four standard deviations of 1,100 draws.
  assert end.count((32, 32)) / len(end) == pytest.approx(0.25, abs=0.053)
  # The first half of the way down has fewer of the small ones than the second.
  assert drawn[100:300].count((32, 32)) < drawn[300:500].count((32, 32))


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: FixedPatchSize((8, 8, 3)), "patch size (8, 8, 3): give a whole"),
    (lambda: SampledPatchSize((4, 8.5)), "patch size 8.5: give a whole number"),
    (lambda: SampledPatchSize(()), "choices is (): give at least one"),
    (lambda: SampledPatchSize((8, (8, 8))), "8x8 2 times: give each size once"),
    (lambda: SampledPatchSize((4, 6), (1,)), "1 values for 2 patch sizes"),
    (lambda: SampledPatchSize((4, 6), (1.5, -0.5)), "has 1.5: give numbers"),
    (lambda: SampledPatchSize((4, 6), (0.5, 0.4)), "sum to 0.9: give numbers"),
    (lambda: BudgetPatchSize((4, 8), 0), "max_tokens is 0: give at least 1"),
    (lambda: BudgetPatchSize((4, 8), 16)(0, 0), "packed: give config.packing"),
    (lambda: ScheduledPatchSize((4, 6), (), ()), "steps is (): give ascending"),
    (
      lambda: ScheduledPatchSize((4, 6), (9, 5), ((1, 0), (0, 1))),
      "steps is (9, 5): give ascending numbers",
    ),
    (
      lambda: ScheduledPatchSize((4, 6), (0, 9), ((1, 0),)),
      "probabilities has 1 rows for 2 steps: give one for each",
    ),
    (
      lambda: ScheduledPatchSize((4, 6), (0,), ((0.5, 0.4),)),
      "probabilities[0] sum to 0.9",
    ),
    (
      lambda: CURRICULUM.check_length(899),
      "total_steps is 899: the run would end before the last probabilities; "
      "give steps up to 899",
    ),
    (
      lambda: CURRICULUM.for_image(lambda size: 1, np.random.default_rng(0)),
      'give config.patch_size name="sampled" or name="budget"',
    ),
  ],
)
def test_refusals(make, text):
  with pytest.raises(ValueError, match=re.escape(text)):
    make()
