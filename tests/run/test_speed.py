"""Time between rows, and the rate of a matrix product."""

import time

import jax
import pytest

from flexivit_jax.run import speed


class Clock:
  """Moves by a second at every look."""

  def __init__(self):
    self.now = 0.0

  def __call__(self):
    self.now += 1.0
    return self.now


def test_parts_are_shares_and_evaluations_are_no_training():
  now = [0.0]
  clock = speed.Clock(lambda: now[0])
  for part, seconds in (
    (speed.DATA_WAIT, 1.0),
    (speed.EVALUATION, 4.0),
    (speed.CHECKPOINT, 2.0),
    (speed.DATA_WAIT, 1.0),
  ):
    with clock.part(part):
      now[0] += seconds
    now[0] += 3.0  # steps
  assert clock.take() == (
    16.0,
    {
      "speed/data_wait": 0.1,
      "speed/evaluation": 0.2,
      "speed/checkpoint": 0.1,
    },
  )
  now[0] += 5.0
  seconds, shares = clock.take()
  assert (seconds, set(shares.values())) == (5.0, {0.0})


@pytest.mark.parametrize("num_devices", [1, 8])
def test_a_product_is_two_flops_for_each_multiply_add_on_each_device(
  num_devices,
):
  devices = jax.devices()[:num_devices]
  rate = speed.measure(
    devices, "float32", sides=(8,), seconds=4.0, clock=Clock()
  )
  assert rate == num_devices * 2 * 8**3


def test_larger_products_are_tried_while_they_are_short():
  sides = []

  class Sides(tuple):
    def __iter__(self):
      for side in super().__iter__():
        sides.append(side)
        yield side

  def measure(seconds):
    sides.clear()
    speed.measure(
      jax.devices()[:1],
      "float32",
      sides=Sides((8, 16, 32)),
      seconds=seconds,
      clock=Clock(),
    )
    return list(sides)

  # One product takes a second, the next one eight, or a tenth of 80.
  assert measure(79.0) == [8]
  assert measure(80.0) == [8, 16, 32]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_real_measurement_is_short_and_plausible(dtype):
  start = time.perf_counter()
  rate = speed.measure(jax.devices(), dtype)
  # Well under 2 s on two idle cores; others may use them too.
  assert time.perf_counter() - start < 10
  # From a slow core to a rack of accelerators.
  assert 1e8 < rate < 1e18


def test_a_rate_is_of_devices_and_type():
  assert speed.key(jax.devices(), "bfloat16") == "8 cpu, bfloat16"
