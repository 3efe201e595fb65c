"""Schedules against closed forms; samplers with a denoiser that knows all."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.tasks import noise as noise_lib
from flexivit_jax.tasks import sampler as sampler_lib

PREDICTIONS = [
  noise_lib.PredictNoise(),
  noise_lib.PredictVelocity(),
  noise_lib.PredictData(),
]
SCHEDULES = [noise_lib.LinearNoise(), noise_lib.CosineNoise()]


def _normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def test_linear_noise_is_the_product_of_its_steps():
  kept = noise_lib.LinearNoise().kept()
  added = 1e-4 + (0.02 - 1e-4) * np.arange(1000) / 999
  want = np.exp(np.log1p(-added).cumsum())
  # Float64, 1,000 factors.
  np.testing.assert_allclose(kept, want, rtol=1e-12)
  assert kept[0] == 1 - 1e-4
  # With a tenth of the steps about as much noise at the end, e^-10.
  few = noise_lib.LinearNoise(100).kept()
  assert abs(np.log(few[-1]) / np.log(kept[-1]) - 1) < 0.1


def test_cosine_noise_is_a_cosine_until_its_steps_are_bounded():
  kept = noise_lib.CosineNoise().kept()
  t = (np.arange(1, 1001) / 1000 + 0.008) / 1.008
  want = np.cos(t * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
  np.testing.assert_allclose(kept[:-1], want[:-1], rtol=1e-11)
  # The last would keep nothing of what it gets.
  np.testing.assert_allclose(kept[-1], kept[-2] * 0.001, rtol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_noise_grows_and_variance_stays(schedule):
  kept = schedule.kept()
  assert kept.dtype == np.float64
  assert (np.diff(kept) < 0).all()
  assert 0.999 < kept[0] < 1
  assert 0 < kept[-1] < 1e-4
  level = noise_lib.level_at(schedule, jnp.arange(schedule.steps))
  # Of two float32 roots.
  np.testing.assert_allclose(level.signal**2 + level.sigma**2, 1, rtol=3e-7)


@pytest.mark.parametrize("predicts", PREDICTIONS, ids=str)
def test_answers_give_the_data_back(predicts):
  x, noise = _normal(0, 10, 4), _normal(1, 10, 4)
  times = jnp.arange(0, 1000, 100)[:, None]
  level = noise_lib.level_at(noise_lib.LinearNoise(), times)
  z = noise_lib.add_noise(x, noise, level)
  found = predicts.data(predicts.target(x, noise, level), z, level)
  # The data of noise is divided by the signal, 0.0175 at time 900: a rounding
  # of 1e-7 becomes 1e-5.
  np.testing.assert_allclose(found, x, rtol=0, atol=2e-5)
  other = predicts.target(x, noise + 0.1, level)
  if predicts != noise_lib.PredictData():
    assert np.abs(predicts.data(other, z, level) - x).max() > 1e-3


def test_velocity_is_the_derivative_along_the_circle():
  """z at an angle a is cos a x + sin a e; d z / d a is the velocity."""
  x, noise, angle = 0.3, -1.2, 0.7
  level = noise_lib.Level(np.cos(angle), np.sin(angle))
  found = noise_lib.PredictVelocity().target(x, noise, level)
  want = jax.grad(lambda a: jnp.cos(a) * x + jnp.sin(a) * noise)(angle)
  np.testing.assert_allclose(found, want, rtol=1e-6)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _sample_of_oracle(sampler, predicts, schedule, x, start):
  """What is sampled by one that knows the data."""

  def denoise(z, time):
    level = noise_lib.level_at(schedule, time)
    noise = (z - level.signal * x) / level.sigma
    return predicts.target(x, noise, level)

  def fresh(number):
    return jax.random.normal(jax.random.key(number), x.shape)

  return sampler_lib.sample(
    denoise,
    start,
    fresh,
    schedule=schedule,
    predicts=predicts,
    sampler=sampler,
  )


@pytest.mark.parametrize(
  ("predicts", "schedule", "eta"),
  # Each with each other once.
  [
    (PREDICTIONS[0], SCHEDULES[0], 0.0),
    (PREDICTIONS[0], SCHEDULES[1], 1.0),
    (PREDICTIONS[1], SCHEDULES[0], 1.0),
    (PREDICTIONS[1], SCHEDULES[1], 0.0),
    (PREDICTIONS[2], SCHEDULES[1], 1.0),
  ],
  ids=str,
)
def test_an_oracle_gives_the_data_back(predicts, schedule, eta):
  x = jnp.clip(_normal(0, 3, 5), -1, 1)
  sampler = sampler_lib.Sampler(steps=20, eta=eta)
  found = _sample_of_oracle(sampler, predicts, schedule, x, _normal(1, 3, 5))
  # The last answer is at time 0, where data is all but the whole of z: sums of
  # a few roundings of 6e-8, of numbers up to 1.
  np.testing.assert_allclose(found, x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_samples_of_a_normal_distribution_have_its_variance(eta):
  """Where data is normal the best answer is known: E[x | z] = signal v z /
  (signal^2 v + sigma^2) of variance v."""
  variance, schedule = 0.25, noise_lib.LinearNoise()

  def denoise(z, time):
    level = noise_lib.level_at(schedule, time)
    total = level.signal**2 * variance + level.sigma**2
    return level.signal * variance * z / total

  def fresh(number):
    return jax.random.normal(jax.random.key(number), (20_000,))

  def sampled(sampler, fresh):
    return sampler_lib.sample(
      denoise,
      _normal(7, 20_000),
      fresh,
      schedule=schedule,
      predicts=noise_lib.PredictData(),
      sampler=sampler,
    )

  sampler = sampler_lib.Sampler(steps=200, eta=eta, clip=False)
  found = sampled(sampler, fresh)
  # 20,000 draws: a standard error of 0.7 % of 0.5; 200 steps leave 1 %.
  assert abs(float(found.std()) / 0.5 - 1) < 0.04
  if eta:
    # A mutant: the noise that is taken away is not given back.
    nothing = sampled(sampler, lambda number: jnp.zeros(20_000))
    assert nothing.std() < 0.3


def test_times_are_spaced_from_the_last_to_the_first():
  schedule = noise_lib.CosineNoise(10)
  assert sampler_lib.Sampler(steps=4).times(schedule).tolist() == [9, 6, 3, 0]
  assert sampler_lib.Sampler(steps=1).times(schedule).tolist() == [9]
  every = sampler_lib.Sampler(steps=10).times(schedule)
  assert every.tolist() == list(range(9, -1, -1))


def test_guidance_goes_on_beyond_the_answer_for_the_class():
  with_class, without = jnp.array([3.0]), jnp.array([1.0])
  for guidance, want in ((0, 1), (1, 3), (2, 5), (0.5, 2)):
    assert sampler_lib.guided(with_class, without, guidance)[0] == want


def test_clipping_bounds_what_is_predicted():
  def denoise(z, time):
    return jnp.full_like(z, 3.0)

  def sampled(clip):
    return sampler_lib.sample(
      denoise,
      _normal(0, 2),
      lambda number: None,
      schedule=SCHEDULES[0],
      predicts=noise_lib.PredictData(),
      sampler=sampler_lib.Sampler(steps=3, clip=clip),
    )

  np.testing.assert_array_equal(sampled(True), [1, 1])
  np.testing.assert_array_equal(sampled(False), [3, 3])


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: noise_lib.LinearNoise(20), "steps is 20: give 21 to 100000"),
    (lambda: noise_lib.CosineNoise(1), "steps is 1: give 2 to 100000"),
    (lambda: sampler_lib.Sampler(steps=0), "steps is 0: give 1 to 100000"),
    (lambda: sampler_lib.Sampler(eta=1.5), "eta is 1.5: give 0 to 1"),
    (lambda: sampler_lib.Sampler(guidance=-1), "guidance is -1: give 0 to 100"),
  ],
)
def test_refusals(make, text):
  with pytest.raises(ValueError, match=re.escape(text)):
    make()
