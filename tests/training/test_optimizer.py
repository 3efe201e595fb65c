"""Learning rates, weight decay and clipping, one step at a time."""

import math

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


@pytest.mark.parametrize(
  ("schedule", "expected"),
  [
    (
      Cosine(),
      # Half a cosine over 100 steps from 2 to 0.
      {0: 2.0, 25: 1 + math.sqrt(0.5), 50: 1.0, 75: 1 - math.sqrt(0.5)},
    ),
    (
      Cosine(warmup_steps=20, final=0.1),
      # Warm-up from 0, then from 2 to 0.2 over the other 80.
      {0: 0.0, 5: 0.5, 10: 1.0, 20: 2.0, 60: 1.1, 100: 0.2, 120: 0.2},
    ),
    (Cosine(warmup_steps=99), {98: 196 / 99, 99: 2.0}),
    (Constant(), {0: 2.0, 50: 2.0, 100: 2.0}),
  ],
)
def test_learning_rates(schedule, expected):
  rate = schedule.build(peak=2.0, total_steps=100)
  for step, value in expected.items():
    # A cosine of about pi in float32 is off by 1e-7 of the peak.
    np.testing.assert_allclose(rate(step), value, rtol=0, atol=1e-6)


def test_the_cosine_ends_at_zero():
  rate = Cosine(warmup_steps=10).build(peak=2.0, total_steps=100)
  assert 0 < rate(99) < 1e-3
  np.testing.assert_allclose(rate(100), 0.0, atol=1e-7)


@pytest.mark.parametrize("warmup", [100, 101])
def test_a_warmup_that_does_not_fit(warmup):
  message = (
    f"warmup_steps {warmup} does not fit into 100 steps: lower "
    "schedule.warmup_steps, or train longer"
  )
  for make in (AdamW, Sgd):
    with pytest.raises(ValueError) as caught:
      make(1e-3, Cosine(warmup_steps=warmup)).build(total_steps=100)
    assert str(caught.value) == message


@pytest.mark.parametrize(
  ("make", "name", "values", "wanted"),
  [
    (Cosine, "warmup_steps", (-1,), "at least 0"),
    (Cosine, "final", (-0.1, 1.5), "at least 0 and at most 1"),
    (AdamW, "learning_rate", (-1e-3,), "at least 0"),
    (AdamW, "weight_decay", (-0.1,), "at least 0"),
    (AdamW, "b1", (-0.1, 1.0), "at least 0 and below 1"),
    (AdamW, "b2", (-0.1, 1.0), "at least 0 and below 1"),
    (AdamW, "eps", (0.0, -1e-8), "above 0"),
    (AdamW, "clip_norm", (0.0, -1.0), "above 0"),
    (Sgd, "learning_rate", (-1e-3,), "at least 0"),
    (Sgd, "momentum", (-0.1, 1.0), "at least 0 and below 1"),
    (Sgd, "clip_norm", (0.0, -1.0), "above 0"),
  ],
)
def test_numbers_out_of_bounds(make, name, values, wanted):
  fields = {} if make is Cosine else {"learning_rate": 0.1}
  for value in (*values, math.nan):
    with pytest.raises(ValueError) as caught:
      make(**fields | {name: value})
    assert str(caught.value) == f"{name} is {value}: give a number {wanted}"


def test_numbers_on_their_bounds():
  # The other side of every bound above.
  assert Cosine(warmup_steps=0, final=1.0) != Cosine(final=0.0)
  AdamW(0.0, weight_decay=0.0, b1=0.0, b2=0.0, eps=1e-30, clip_norm=1e-30)
  Sgd(0.0, momentum=0.0, clip_norm=1e-30)


def test_a_decay_that_takes_more_than_the_whole_parameter():
  AdamW(0.1, weight_decay=9.0)
  with pytest.raises(ValueError) as caught:
    AdamW(0.1, weight_decay=10.0)
  assert str(caught.value) == (
    "weight_decay 10.0 times learning_rate 0.1 is what a step takes off a "
    "parameter: give less than 1"
  )


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


@pytest.mark.parametrize(
  ("pattern", "decayed"),
  [
    (".*/kernel", {"kernel"}),
    ("head/.*", {"kernel", "bias"}),
    (".*", {"kernel", "bias", "cls"}),
  ],
)
def test_the_decay_pattern_matches_whole_paths(pattern, decayed):
  params = arrays({"head": {"kernel": [8.0], "bias": [8.0]}, "cls": [8.0]})
  zero = arrays({"head": {"kernel": [0.0], "bias": [0.0]}, "cls": [0.0]})
  optimizer = AdamW(0.1, Constant(), weight_decay=0.5, decay_pattern=pattern)
  step = updates(optimizer, zero, params)
  flat = {**step["head"], "cls": step["cls"]}
  assert {name for name, x in flat.items() if x[0] != 0} == decayed


@pytest.mark.parametrize("pattern", ["kernel", "head", "head/kern"])
def test_a_decay_pattern_that_matches_no_whole_path_is_refused(pattern):
  params = arrays({"head": {"kernel": [8.0], "bias": [8.0]}})
  optimizer = AdamW(0.1, weight_decay=0.5, decay_pattern=pattern)
  with pytest.raises(ValueError, match=f"'{pattern}' matches no parameter"):
    optimizer.build(total_steps=10).init(params)


@pytest.mark.parametrize(
  ("pattern", "why"),
  [
    ("(kernel", "missing ), unterminated subpattern at position 0"),
    ("a{99999999999}", "the repetition number is too large"),
    ("(" * 2000, "maximum recursion depth exceeded"),
  ],
)
def test_a_decay_pattern_that_is_no_pattern(pattern, why):
  # ValueError, which the commands turn into a line that names the config.
  with pytest.raises(ValueError) as caught:
    AdamW(0.1, decay_pattern=pattern)
  assert str(caught.value).startswith(f"decay_pattern {pattern!r}: {why}")


def test_a_moment_type_that_is_no_type():
  with pytest.raises(ValueError) as caught:
    AdamW(0.1, mu_dtype="floaty")
  assert str(caught.value) == "mu_dtype 'floaty': give float32 or bfloat16"


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
