"""optax's optimisers by name: their steps, their options, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flexivit_jax.training import optimizer as optimizer_lib
from flexivit_jax.training.optimizer import Optax
from flexivit_jax.training.schedules import Constant, Cosine

PARAMS = {"kernel": jnp.array([[2.0, -4.0], [1.0, 0.5]]), "bias": jnp.ones(2)}
GRADIENTS = {
  "kernel": jnp.array([[0.3, -0.2], [0.1, 0.4]]),
  "bias": jnp.array([-1.0, 2.0]),
}


def walk(tx, steps=3):
  """Parameters after some steps of equal gradients."""
  params, state = PARAMS, tx.init(PARAMS)
  for _ in range(steps):
    step, state = tx.update(GRADIENTS, state, params)
    params = optax.apply_updates(params, step)
  return params


def assert_same(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    # Some float32 products in another order.
    np.testing.assert_allclose(x, y, rtol=1e-5)
  assert all((a[name] != PARAMS[name]).any() for name in PARAMS)


@pytest.mark.parametrize("name", optimizer_lib.OPTIMIZERS)
def test_every_optimizer_steps_as_optax_does_at_a_constant_rate(name):
  module = optax if hasattr(optax, name) else optax.contrib
  plain = getattr(module, name)
  theirs = {"lion": {"weight_decay": 0.0}}.get(name, {})
  found = Optax(0.01, Constant(), transform=name).build(10)
  assert_same(walk(found), walk(plain(0.01, **theirs)))


@pytest.mark.parametrize("name", ["scale_by_belief", "scale_by_lion"])
def test_a_transformation_is_a_direction_uphill(name):
  found = Optax(0.01, Constant(), transform=name).build(10)
  own = optax.chain(getattr(optax, name)(), optax.scale(-0.01))
  assert_same(walk(found), walk(own))


def test_options_reach_optax():
  options = {"b1": 0.5, "b2": 0.6, "mu_dtype": "bfloat16"}
  optimizer = Optax(0.01, Constant(), transform="lion", options=options)
  state = jax.tree.leaves(optimizer.build(10).init(PARAMS))
  assert {x.dtype for x in state if x.ndim} == {jnp.dtype("bfloat16")}
  plain = optax.lion(0.01, weight_decay=0.0, **options)
  assert_same(walk(optimizer.build(10)), walk(plain))


def test_schedule_decay_and_clipping_wrap_any_of_them():
  optimizer = Optax(
    0.1,
    Cosine(warmup_steps=2),
    weight_decay=0.5,
    decay_pattern="kernel",
    clip_norm=1.0,
    transform="sign_sgd",
  )
  tx = optimizer.build(10)
  state = tx.init(PARAMS)
  still, state = tx.update(GRADIENTS, state, PARAMS)
  assert all((x == 0).all() for x in still.values())  # the warm-up's first
  half, _ = tx.update(GRADIENTS, state, PARAMS)
  sign = np.sign(GRADIENTS["kernel"])
  expected = -0.05 * (sign + 0.5 * PARAMS["kernel"])
  np.testing.assert_allclose(half["kernel"], expected, rtol=1e-6)
  np.testing.assert_allclose(half["bias"], [0.05, -0.05], rtol=1e-6)


def test_an_option_for_its_own_decay_is_taken():
  # LAMB's trust ratio sees it, as in arXiv:1904.00962.
  optimizer = Optax(
    0.01, Constant(), transform="lamb", options={"weight_decay": 0.1}
  )
  own = optax.lamb(0.01, weight_decay=0.1)
  assert_same(walk(optimizer.build(10)), walk(own))


@pytest.mark.parametrize(
  ("name", "options", "text"),
  [
    (
      "loin",
      {},
      "transform 'loin' is none of optax's that can be used here (did you mean "
      "'lion'?); valid: adabelief, adadelta, adafactor, adagrad, adam, adamax, "
      "adan, amsgrad, lamb, lars, lion, novograd, radam, rmsprop, sgd, "
      "sign_sgd, signum, sm3, yogi, acprop, ademamix, adopt, muon, "
      "simplified_ademamix, and optax's scale_by_...",
    ),
    (
      "lion",
      {"beta1": 0.9},
      "optax's lion has no option 'beta1'; valid: b1, b2, mu_dtype, "
      "weight_decay",
    ),
    (
      "sgd",
      {"momentun": 0.9},
      "optax's sgd has no option 'momentun' (did you mean 'momentum'?); valid: "
      "momentum, nesterov, accumulator_dtype",
    ),
    (
      "lion",
      {"b1": "x"},
      "optax's lion: option b1 is 'x': give a number, 0.9 say",
    ),
    (
      "adam",
      {"eps": True},
      "optax's adam: option eps is True: give a number, 1e-08 say",
    ),
    (
      "sgd",
      {"nesterov": 1},
      "optax's sgd: option nesterov is 1: give True or False",
    ),
    (
      "lamb",
      {"mask": True},
      "optax's lamb has no option 'mask'; valid: b1, b2, eps, eps_root, "
      "weight_decay",
    ),
    (
      "scale_by_polyak",
      {},
      "optax's scale_by_polyak cannot be used with options {}: "
      "scale_by_polyak.<locals>.update_fn() missing 1 required keyword-only "
      "argument: 'value'",
    ),
    (
      "scale_by_sign",
      {"b1": 0.9},
      "optax's scale_by_sign has no option 'b1'; valid: none",
    ),
  ],
)
def test_what_cannot_be_used_names_what_can(name, options, text):
  with pytest.raises(ValueError) as caught:
    Optax(0.1, transform=name, options=options)
  assert str(caught.value) == text


@pytest.mark.parametrize(
  "name", ["prodigy", "lbfgs", "schedule_free_sgd", "identity", "__doc__"]
)
def test_what_does_not_follow_a_learning_rate_is_not_offered(name):
  with pytest.raises(ValueError, match=f"transform '{name}' is none of optax"):
    Optax(0.1, transform=name)
