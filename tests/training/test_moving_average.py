"""The moving average of the parameters: its values, and what is evaluated."""

import jax.numpy as jnp
import numpy as np
import optax

from flexivit_jax.core.metric import Metric
from flexivit_jax.training import state as state_lib
from flexivit_jax.training import step


def measure(params, batch, dropout_key):
  del dropout_key
  return {"loss": Metric((params["w"] * batch).sum(), jnp.float32(1))}


def walk(ema, steps, learning_rate=1.0):
  """States of SGD on a constant gradient of 1."""
  tx = optax.sgd(learning_rate)
  params = {"w": jnp.full((2,), 5.0)}
  state = state_lib.init_state(params, tx, seed=0, ema=ema is not None)
  states = [state]
  for _ in range(steps):
    state, _ = step.train_step(
      state, {}, jnp.ones(2), measure=measure, tx=tx, ema=ema
    )
    states.append(state)
  return states


def test_the_average_follows_the_formula():
  states = walk(0.3, 8)
  average = 5.0
  np.testing.assert_array_equal(states[0].ema["w"], average)
  for t, state in enumerate(states[1:]):
    # 1/10, 2/11, 3/12, 4/13 = 0.308, and from then on 0.3.
    decay = min(0.3, (1 + t) / (10 + t))
    average = decay * average + (1 - decay) * (5.0 - (t + 1))
    np.testing.assert_array_equal(state.params["w"], 5.0 - (t + 1))
    # float32 sums of numbers below 5.
    np.testing.assert_allclose(state.ema["w"], average, rtol=0, atol=1e-6)


def test_the_average_of_a_constant_is_that_constant():
  # 0.1, which float32 rounds: d * x + (1 - d) * x would drift.
  tx = optax.sgd(0.0)
  state = state_lib.init_state({"w": jnp.full(2, 0.1)}, tx, seed=0, ema=True)
  for _ in range(20):
    state, _ = step.train_step(
      state, {}, jnp.ones(2), measure=measure, tx=tx, ema=0.9
    )
  np.testing.assert_array_equal(state.ema["w"], state.params["w"])


def test_what_is_evaluated():
  with_average, without = walk(0.9, 3)[-1], walk(None, 3)[-1]
  assert with_average.evaluated is with_average.ema
  assert without.evaluated is without.params
  assert without.ema is None
  # The average changes nothing of the training.
  np.testing.assert_array_equal(with_average.params["w"], without.params["w"])
  assert not np.array_equal(with_average.ema["w"], without.params["w"])
