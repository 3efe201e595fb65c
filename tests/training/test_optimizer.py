"""Learning rates, weight decay and clipping, one step at a time."""

import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flexivit_jax.training.optimizer import Adafactor, AdamW, Sgd
from flexivit_jax.training.schedules import Constant, Cosine

# float32 arithmetic on numbers below 10.
TOL = dict(rtol=1e-6, atol=0)

PARAMS = {
  "Transformer": {"Dense_0": {"kernel": [[2.0, -4.0]], "bias": [3.0, 5.0]}},
  "cls": [1.0],
  "head": {"kernel": [[8.0]], "bias": [-2.0]},
}


def arrays(tree):
  if isinstance(tree, dict):
    return {name: arrays(branch) for name, branch in tree.items()}
  return jnp.array(tree)


def updates(optimizer, gradients, params, steps=1):
  """The update of the last of `steps` equal steps."""
  tx = optimizer.build(total_steps=100)
  state = tx.init(params)
  for _ in range(steps):
    update, state = tx.update(gradients, state, params)
  return update


def has_mu(state):
  return hasattr(state, "mu")


@pytest.mark.parametrize("make", [AdamW, Sgd])
def test_the_schedule_sets_the_steps_of_an_optimizer(make):
  params = {"kernel": jnp.array([1.0])}
  gradients = {"kernel": jnp.array([1.0])}
  plain = {"momentum": None} if make is Sgd else {}
  # The fourth step has number 3: 3 / 20 of the peak, 2.
  optimizer = make(2.0, Cosine(warmup_steps=20), **plain)
  step = updates(optimizer, gradients, params, steps=4)
  # Adam divides equal gradients by their size: -1 but for eps, 1e-8, and its
  # float32 bias correction of 1 - 0.999, good to 1e-4.
  np.testing.assert_allclose(step["kernel"], [-0.3], rtol=1e-4)


def test_weight_decay_touches_kernels_alone():
  params = arrays(PARAMS)
  zero = arrays(
    {
      "Transformer": {"Dense_0": {"kernel": [[0.0, 0.0]], "bias": [0.0, 0.0]}},
      "cls": [0.0],
      "head": {"kernel": [[0.0]], "bias": [0.0]},
    }
  )
  optimizer = AdamW(0.1, Constant(), weight_decay=0.5)
  step = updates(optimizer, zero, params)
  # Learning rate times decay, 0.05, of each kernel.
  dense = step["Transformer"]["Dense_0"]
  np.testing.assert_allclose(dense["kernel"], [[-0.1, 0.2]], **TOL)
  np.testing.assert_allclose(step["head"]["kernel"], [[-0.4]], **TOL)
  for still in (dense["bias"], step["cls"], step["head"]["bias"]):
    np.testing.assert_array_equal(still, 0.0)


def test_the_type_of_the_first_moment():
  params = arrays({"head": {"kernel": [8.0]}})
  for mu_dtype, expected in ((None, "float32"), ("bfloat16", "bfloat16")):
    state = AdamW(0.1, mu_dtype=mu_dtype).build(100).init(params)
    (adam,) = filter(has_mu, jax.tree.leaves(state, is_leaf=has_mu))
    assert adam.mu["head"]["kernel"].dtype == expected


@pytest.mark.parametrize(
  ("clip_norm", "expected"),
  [
    (None, ([-3.0], [4.0])),
    (10.0, ([-3.0], [4.0])),  # the global norm is 5
    (1.0, ([-0.6], [0.8])),
  ],
)
def test_sgd_clips_the_global_norm(clip_norm, expected):
  params = arrays({"a": [1.0], "b": [1.0]})
  gradients = arrays({"a": [3.0], "b": [-4.0]})
  optimizer = Sgd(1.0, Constant(), momentum=None, clip_norm=clip_norm)
  step = updates(optimizer, gradients, params)
  np.testing.assert_allclose(step["a"], expected[0], **TOL)
  np.testing.assert_allclose(step["b"], expected[1], **TOL)


def test_adamw_clips_gradients_and_not_the_decay():
  params = arrays({"head": {"kernel": [10.0], "bias": [0.0]}})
  gradients = arrays({"head": {"kernel": [3.0], "bias": [-4.0]}})
  optimizer = AdamW(1.0, Constant(), weight_decay=0.5, eps=1.0, clip_norm=1.0)
  # Adam's first step is g / (|g| + eps): with eps = 1 it shows the size of g,
  # 0.6 and 0.8 after clipping. The decay, 5, is added to it.
  step = updates(optimizer, gradients, params)["head"]
  # Adam's float32 bias correction by 1 - 0.999 is good to 1e-4.
  np.testing.assert_allclose(step["kernel"], [-0.375 - 5.0], rtol=1e-4)
  np.testing.assert_allclose(step["bias"], [0.8 / 1.8], rtol=1e-4)


def test_sgd_has_momentum():
  params, gradients = arrays({"a": [0.0]}), arrays({"a": [1.0]})
  for steps, total in ((1, 1.0), (2, 1.9), (3, 2.71)):
    step = updates(Sgd(1.0, Constant()), gradients, params, steps=steps)
    np.testing.assert_allclose(step["a"], [-total], **TOL)


def test_adafactor_steps_as_optax_does_at_a_constant_rate():
  params = {
    "kernel": jnp.linspace(-1, 1, 12).reshape(3, 4),
    "bias": jnp.ones(4),
  }
  own = Adafactor(
    0.01, Constant(), min_dim_size_to_factor=2, decay_pattern="kernel"
  ).build(10)
  theirs = optax.adafactor(0.01, min_dim_size_to_factor=2)

  def walk(tx):
    state, p = tx.init(params), params
    for _ in range(3):
      updates, state = tx.update(jax.tree.map(jnp.sin, p), state, p)
      p = optax.apply_updates(p, updates)
    return p

  # The rate is applied before the rounding in one, after it in the other.
  chex.assert_trees_all_close(walk(own), walk(theirs), rtol=1e-5)


def _init(optimizer):
  params = arrays({"head": {"kernel": [8.0], "bias": [8.0]}})
  return optimizer.build(total_steps=10).init(params)


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: AdamW(-1e-3), "learning_rate is -0.001: give a number at least 0"),
    (lambda: AdamW(0.1, b1=1.0), "b1 is 1.0: give a number at least 0 and"),
    (lambda: AdamW(0.1, b2=math.nan), "b2 is nan: give a number at least 0"),
    (lambda: AdamW(0.1, eps=0.0), "eps is 0.0: give a number above 0"),
    (lambda: AdamW(0.1, clip_norm=0.0), "clip_norm is 0.0: give a number"),
    (lambda: AdamW(0.1, weight_decay=-0.1), "weight_decay is -0.1: give a"),
    (lambda: AdamW(0.1, mu_dtype="x"), "mu_dtype 'x': give float32 or"),
    (lambda: Sgd(0.1, momentum=1.0), "momentum is 1.0: give a number at least"),
    (
      lambda: AdamW(0.1, weight_decay=10.0),
      "weight_decay 10.0 times learning_rate 0.1 is what a step takes off a "
      "parameter: give less than 1",
    ),
    (
      lambda: AdamW(0.1, weight_decay=3.0, decay_scale="schedule"),
      "weight_decay 3.0 is what a step takes off",
    ),
    (lambda: AdamW(0.1, decay_scale="x"), "'x': give learning_rate or"),
    (lambda: AdamW(0.1, layer_decay=0.0), "layer_decay is 0.0: give a number"),
    (lambda: AdamW(0.1, decay_pattern="(kernel"), "decay_pattern '(kernel': "),
    (
      lambda: _init(AdamW(0.1, weight_decay=0.5, decay_pattern="head/kern")),
      "'head/kern' matches no parameter",
    ),
  ],
)
def test_refusals(make, text):
  with pytest.raises(ValueError, match=re.escape(text)):
    make()
