"""Patch sizes are a function of (seed, step), and nothing else."""

import math

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


def test_another_seed_is_another_sequence():
  sequences = {tuple(draws(FLEXIVIT, range(20), seed)) for seed in range(10)}
  assert len(sequences) == 10


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


def test_neighbouring_steps_are_independent():
  drawn = draws(FLEXIVIT, range(4001), seed=2)
  same = np.mean([a == b for a, b in zip(drawn[1:], drawn, strict=False)])
  # Ten sizes agree by chance in 1/10 of the pairs; four standard deviations.
  assert abs(same - 0.1) <= 4 * math.sqrt(0.1 * 0.9 / 4000)


def test_sizes_are_height_and_width():
  policy = SampledPatchSize((8, (8, 6), (6, 8)))
  assert policy.sizes == ((8, 8), (8, 6), (6, 8))
  assert set(draws(policy, range(100))) == set(policy.sizes)


def test_fixed_is_the_same_at_every_step():
  for size, hw in ((6, (6, 6)), ((8, 6), (8, 6))):
    policy = FixedPatchSize(size)
    assert policy.sizes == (hw,)
    assert draws(policy, range(5), seed=3) == [hw] * 5


@pytest.mark.parametrize(
  "size", [0, -8, (8, 0), (8,), (8, 8, 3), "8", 8.5, (8, 8.0), None]
)
def test_no_patch_size(size):
  for make in (as_hw, FixedPatchSize, lambda s: SampledPatchSize((4, s))):
    with pytest.raises(ValueError) as caught:
      make(size)
    assert str(caught.value) == (
      f"patch size {size!r}: give a whole number of pixels, or (height, width)"
    )


@pytest.mark.parametrize(
  ("choices", "message"),
  [
    ((), "choices is (): give at least one patch size"),
    ((4, 6, 4), "choices has 4x4 2 times: give each size once"),
    ((8, (8, 8)), "choices has 8x8 2 times: give each size once"),
    ((7,) * 3000, "choices has 7x7 3000 times: give each size once"),
  ],
)
def test_each_size_once(choices, message):
  with pytest.raises(ValueError) as caught:
    SampledPatchSize(choices)
  assert str(caught.value) == message


@pytest.mark.parametrize(
  ("probabilities", "message"),
  [
    ((1.0,), "has 1 values for 2 patch sizes: give one for each"),
    ((0.5, 0.25, 0.25), "has 3 values for 2 patch sizes: give one for each"),
    ((), "has 0 values for 2 patch sizes: give one for each"),
    ((1.5, -0.5), "has 1.5: give numbers from 0 to 1"),
    ((-0.5, 1.0), "has -0.5: give numbers from 0 to 1"),
    ((0.5, math.nan), "has nan: give numbers from 0 to 1"),
    ((0.5, 0.4), "sum to 0.9: give numbers that sum to 1"),
  ],
)
def test_probabilities_must_be_some(probabilities, message):
  with pytest.raises(ValueError) as caught:
    SampledPatchSize((4, 6), probabilities)
  assert str(caught.value) == f"probabilities {message}"


def test_thirds_are_probabilities():
  # They sum to 1 in decimals only as far as they are written.
  for thirds in ((1 / 3,) * 3, (0.3333333, 0.3333333, 0.3333333)):
    assert SampledPatchSize((4, 6, 8), thirds).probabilities == thirds


def tokens_of(image_hw):
  """How many patches an image has, sides rounded up."""
  return lambda size: math.prod(
    -(-side // p) for side, p in zip(image_hw, size, strict=True)
  )


def test_a_fixed_size_is_that_of_every_image():
  assert FixedPatchSize((8, 6)).for_image(tokens_of((64, 64)), None) == (8, 6)


@pytest.mark.parametrize("probabilities", [None, (0.7, 0.2, 0.1)])
def test_packed_images_draw_sizes_by_their_probabilities(probabilities):
  policy = SampledPatchSize((4, 6, (8, 6)), probabilities)
  n, rng = 4000, np.random.default_rng(0)

  def never(size):
    raise AssertionError("a drawn size is no matter of the image's length")

  drawn = [policy.for_image(never, rng) for _ in range(n)]
  for size, p in zip(policy.sizes, probabilities or [1 / 3] * 3, strict=True):
    # Four standard deviations, as above.
    assert abs(drawn.count(size) / n - p) <= 4 * math.sqrt(p * (1 - p) / n)
  again = np.random.default_rng(0)
  assert [policy.for_image(never, again) for _ in range(9)] == drawn[:9]


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


@pytest.mark.parametrize(
  ("call", "text"),
  [
    (
      lambda: BudgetPatchSize((), 16),
      "choices is (): give at least one patch size",
    ),
    (
      lambda: BudgetPatchSize((4, (4, 4)), 16),
      "choices has 4x4 2 times: give each size once",
    ),
    (
      lambda: BudgetPatchSize((4, 8), 0),
      "max_tokens is 0: give at least 1",
    ),
    (
      lambda: BudgetPatchSize((4, 8), 16)(0, 0),
      "a token budget chooses a patch size for each image, so images must be "
      "packed: give config.packing, or another config.patch_size",
    ),
  ],
)
def test_refusals_of_a_budget(call, text):
  with pytest.raises(ValueError) as caught:
    call()
  assert str(caught.value) == text


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


def test_a_scheduled_size_is_a_function_of_seed_and_step():
  backward = draws(CURRICULUM, reversed(range(400, 800)), seed=1)
  assert draws(CURRICULUM, range(400, 800), seed=1) == backward[::-1]
  assert draws(CURRICULUM, range(400, 800), seed=2) != backward[::-1]


def test_probabilities_that_stay_are_those_of_sampled_sizes():
  still = ScheduledPatchSize((4, 6, 8), (5,), ((0.5, 0.2, 0.3),))
  sampled = SampledPatchSize((4, 6, 8), (0.5, 0.2, 0.3))
  assert draws(still, range(50)) == draws(sampled, range(50))


@pytest.mark.parametrize(
  ("steps", "probabilities", "text"),
  [
    ((), (), "steps is (): give ascending numbers of steps"),
    (
      (9, 5),
      ((1.0, 0.0), (0.0, 1.0)),
      "steps is (9, 5): give ascending numbers of steps",
    ),
    ((-1,), ((1.0, 0.0),), "steps is (-1,): give ascending numbers of steps"),
    (
      (0, 9),
      ((1.0, 0.0),),
      "probabilities has 1 rows for 2 steps: give one for each",
    ),
    (
      (0, 9),
      ((1.0, 0.0), (1.0,)),
      "probabilities[1] has 1 values for 2 patch sizes: give one for each",
    ),
    (
      (0,),
      ((0.5, 0.4),),
      "probabilities[0] sum to 0.9: give numbers that sum to 1",
    ),
    (
      (0,),
      ((1.5, -0.5),),
      "probabilities[0] has 1.5: give numbers from 0 to 1",
    ),
  ],
)
def test_schedules_that_cannot_be(steps, probabilities, text):
  with pytest.raises(ValueError) as caught:
    ScheduledPatchSize((4, 6), steps, probabilities)
  assert str(caught.value) == text


def test_a_schedule_of_sizes_ends_with_the_training():
  policy = ScheduledPatchSize((16, 8), (0, 90), ((1, 0), (0, 1)))
  policy.check_length(90)
  with pytest.raises(ValueError) as caught:
    policy.check_length(89)
  assert str(caught.value) == (
    "steps is (0, 90), but total_steps is 89: the run would end before the "
    "last probabilities; give steps up to 89, or train longer"
  )


def test_packed_images_have_no_step():
  with pytest.raises(ValueError) as caught:
    CURRICULUM.for_image(lambda size: 1, np.random.default_rng(0))
  assert str(caught.value) == (
    "scheduled patch sizes go by the step, which packed images do not know: "
    'give config.patch_size name="sampled" or name="budget"'
  )
