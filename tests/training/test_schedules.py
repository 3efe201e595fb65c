"""Learning rates over steps against big_vision's formulas, and refusals."""

import math

import numpy as np
import pytest

from flexivit_jax.training.schedules import Constant, Cosine, Linear, Rsqrt

SCHEDULES = (Cosine, Linear, Rsqrt, Constant)


def ramp(t, n, w=0, c=0):
  """big_vision's: from 0 over w steps, to 0 over the last c."""
  up = min(1, t / w) if w else 1
  return up * (min(1, (n - t) / c) if c else 1)


def share(t, n, w):
  return min(1, max(0, (t - w) / (n - w)))


# Schedule, length, and the factor of the peak at step t as big_vision's
# create_learning_rate_schedule defines it: decay_type, warmup_steps,
# cooldown_steps, linear_end, timescale.
PUBLISHED = [
  (
    Cosine(warmup_steps=50),
    400,
    lambda t: (
      0.5 * (1 + math.cos(math.pi * share(t, 400, 50))) * ramp(t, 400, 50)
    ),
  ),
  (
    Cosine(warmup_steps=50, cooldown_steps=30),
    400,
    lambda t: (
      0.5 * (1 + math.cos(math.pi * share(t, 400, 50))) * ramp(t, 400, 50, 30)
    ),
  ),
  (
    Linear(warmup_steps=20, final=0.1),
    300,
    lambda t: (0.1 + 0.9 * (1 - share(t, 300, 20))) * ramp(t, 300, 20),
  ),
  (
    # NaViT's kind: reciprocal square root, with a cooldown.
    Rsqrt(warmup_steps=100, cooldown_steps=200, timescale=50),
    1000,
    lambda t: ramp(t, 1000, 100, 200) / math.sqrt(1 + max(0, t - 100) / 50),
  ),
  (Rsqrt(), 500, lambda t: 1 / math.sqrt(1 + t / 10_000)),
  (Constant(warmup_steps=10), 100, lambda t: ramp(t, 100, 10)),
]


@pytest.mark.parametrize(("schedule", "steps", "published"), PUBLISHED)
def test_every_step_has_the_published_rate(schedule, steps, published):
  rates = schedule.build(8e-4, steps)(np.arange(steps))
  expected = 8e-4 * np.array([published(t) for t in range(steps)])
  # Some float32 operations; a cosine near pi is good to 1e-7 of the peak.
  np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=8e-4 * 1e-6)
  # A schedule that is one step early or late is seen, but where it is flat.
  early = schedule.build(8e-4, steps)(np.arange(steps) + 1)
  if schedule != Rsqrt():
    assert np.abs(early - expected).max() > 8e-4 * 1e-3


@pytest.mark.parametrize(
  ("schedule", "values"),
  [
    # Half way down at 550: (1 + cos(pi / 2)) / 2.
    (Cosine(warmup_steps=100), {0: 0, 1: 0.01, 100: 1, 550: 0.5, 1000: 0}),
    (Cosine(final=0.2), {0: 1, 250: 0.2 + 0.8 * 0.853553, 1000: 0.2}),
    (Linear(warmup_steps=100), {50: 0.5, 100: 1, 550: 0.5, 999: 1 / 900}),
    (Linear(final=0.1), {0: 1, 500: 0.55, 1000: 0.1, 2000: 0.1}),
    # 1 / sqrt(1 + 1), 1 / sqrt(1 + 3).
    (Rsqrt(timescale=100), {0: 1, 100: 0.707107, 300: 0.5}),
    (Rsqrt(warmup_steps=100, timescale=300), {50: 0.5, 100: 1, 400: 0.707107}),
    # Half of 1 / sqrt(1 + 8).
    (Rsqrt(cooldown_steps=400, timescale=100), {800: 1 / 6, 1000: 0, 1500: 0}),
    (Constant(cooldown_share=0.1), {899: 1, 900: 1, 950: 0.5, 999: 0.01}),
    (Constant(warmup_share=0.05), {0: 0, 25: 0.5, 50: 1, 999: 1}),
  ],
)
def test_values_that_can_be_checked_by_eye(schedule, values):
  rate = schedule.build(2.0, 1000)
  for step, factor in values.items():
    # Written with six digits.
    assert float(rate(step)) == pytest.approx(2 * factor, abs=2e-6), step


def test_a_step_beyond_the_range_of_float16_and_a_long_training():
  # big_vision's i21k recipe has 319,000 steps: float32 counts them exactly.
  rate = Cosine(warmup_steps=10_000).build(1e-3, 319_000)
  expected = 0.5 * (1 + math.cos(math.pi * 290_001 / 309_000)) * 1e-3
  assert float(rate(300_001)) == pytest.approx(expected, abs=1e-9)


def test_a_share_is_rounded_and_at_least_one_step():
  whole = Cosine(warmup_steps=33, cooldown_steps=1)
  shares = Cosine(warmup_share=0.333, cooldown_share=0.0001)
  steps = np.arange(100)
  np.testing.assert_array_equal(
    whole.build(1.0, 100)(steps), shares.build(1.0, 100)(steps)
  )
  none = Cosine(warmup_share=0.0).build(1.0, 100)(steps)
  np.testing.assert_array_equal(none, Cosine().build(1.0, 100)(steps))


@pytest.mark.parametrize("make", SCHEDULES)
def test_ramps_that_overlap(make):
  together = make(warmup_steps=40, cooldown_share=0.6).build(1.0, 100)
  assert float(together(40)) == 1  # the one step at the peak
  with pytest.raises(ValueError) as caught:
    make(warmup_steps=40, cooldown_share=0.61).build(1.0, 100)
  assert str(caught.value) == (
    "a warm-up of 40 steps and a cooldown of 61 overlap in 100: lower "
    "schedule.warmup_steps or schedule.cooldown_steps, or train longer"
  )


@pytest.mark.parametrize("make", SCHEDULES)
@pytest.mark.parametrize("ramp", ["warmup", "cooldown"])
def test_ramps_that_cannot_be(make, ramp):
  def refusal(**fields):
    with pytest.raises(ValueError) as caught:
      make(**fields).build(1.0, 100)
    return str(caught.value)

  steps, part = f"{ramp}_steps", f"{ramp}_share"
  assert refusal(**{steps: -1}) == f"{steps} is -1: give a number at least 0"
  assert refusal(**{part: 1.0}) == (
    f"{part} is 1.0: give a number at least 0 and below 1"
  )
  assert refusal(**{steps: 5, part: 0.1}) == (
    f"{steps} is 5 and {part} 0.1: give one of them"
  )
  assert refusal(**{steps: 100}) == (
    f"{steps} 100 does not fit into 100 steps: lower schedule.{steps}, or "
    "train longer"
  )
  assert refusal(**{part: 0.996}) == (
    f"{part} 0.996 does not fit into 100 steps: lower schedule.{part}, or "
    "train longer"
  )


@pytest.mark.parametrize(
  ("make", "field", "value", "wanted"),
  [
    (Linear, "final", 1.5, "at least 0 and at most 1"),
    (Linear, "final", math.nan, "at least 0 and at most 1"),
    (Rsqrt, "timescale", 0.0, "above 0"),
  ],
)
def test_numbers_out_of_bounds(make, field, value, wanted):
  with pytest.raises(ValueError) as caught:
    make(**{field: value})
  assert str(caught.value) == f"{field} is {value}: give a number {wanted}"
