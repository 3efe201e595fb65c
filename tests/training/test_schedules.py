"""Learning rates over steps against big_vision's formulas, and refusals."""

import math
import re

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
def test_ramps_that_meet(make):
  together = make(warmup_steps=40, cooldown_share=0.6).build(1.0, 100)
  assert float(together(40)) == 1  # the one step at the peak


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: Linear(final=1.5), "final is 1.5: give a number at least 0 and"),
    (lambda: Linear(final=math.nan), "final is nan: give a number at least 0"),
    (lambda: Rsqrt(timescale=0.0), "timescale is 0.0: give a number above 0"),
    (lambda: Cosine(warmup_steps=-1), "warmup_steps is -1: give a number at"),
    (lambda: Cosine(cooldown_share=1.0), "cooldown_share is 1.0: give a"),
    (
      lambda: Cosine(warmup_steps=5, warmup_share=0.1),
      "warmup_steps is 5 and warmup_share 0.1: give one of them",
    ),
    (
      lambda: Cosine(warmup_steps=100).build(1.0, 100),
      "warmup_steps 100 does not fit into 100 steps: lower "
      "schedule.warmup_steps, or train longer",
    ),
    (
      lambda: Cosine(cooldown_share=0.996).build(1.0, 100),
      "cooldown_share 0.996 does not fit into 100 steps",
    ),
    (
      lambda: Cosine(warmup_steps=40, cooldown_share=0.61).build(1.0, 100),
      "a warm-up of 40 steps and a cooldown of 61 overlap in 100: lower "
      "schedule.warmup_steps or schedule.cooldown_steps",
    ),
  ],
)
def test_refusals(make, text):
  with pytest.raises(ValueError, match=re.escape(text)):
    make()
