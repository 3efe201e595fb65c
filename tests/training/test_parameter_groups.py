"""Which parameters decay, learn slower, or stay: by path, and by layer."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid
from flexivit_jax.tasks.classification import Supervised
from flexivit_jax.training import parameter_groups
from flexivit_jax.training.optimizer import AdamW, Sgd
from flexivit_jax.training.parameter_groups import Group
from flexivit_jax.training.schedules import Constant, Cosine


def tree(**changes):
  """Parameters of a ViT three blocks deep."""
  fields = dict(
    size=encoder.Size(8, 3, 16, 2),
    position=learned_grid.LearnedGrid((2, 2)),
    pool=pooling.Map(),
    kernel_hw=(4, 4),
    num_classes=3,
    registers=2,
  )
  model = vit.ViT(**fields | changes)
  images = np.zeros((1, 8, 8, 3), np.uint8)
  params = jax.eval_shape(
    lambda: Supervised().init(model, jax.random.key(0), images, (4, 4))
  )
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params
  )


def by_name(params):
  return {
    parameter_groups.path_name(path): x
    for path, x in jax.tree_util.tree_leaves_with_path(params)
  }


def one_step(optimizer, params, gradients=None):
  tx = optimizer.build(total_steps=100)
  ones = jax.tree.map(jnp.ones_like, params)
  step, _ = tx.update(gradients or ones, tx.init(params), params)
  return by_name(step)


def test_layers_learn_slower_the_lower_they_are():
  step = one_step(Sgd(1.0, Constant(), momentum=None, layer_decay=0.5), tree())
  # With three blocks: 0.5^4 below them, 0.5^3, 0.5^2, 0.5, and 1 above.
  expected = {
    "embedding/": 1 / 16,
    "pos_embedding": 1 / 16,
    "registers": 1 / 16,
    "Transformer/encoderblock_0/": 1 / 8,
    "Transformer/encoderblock_1/": 1 / 4,
    "Transformer/encoderblock_2/": 1 / 2,
    "Transformer/encoder_norm/": 1,
    "MAPHead_0/": 1,
    "head/": 1,
  }
  seen = set()
  for name, x in step.items():
    (prefix,) = [p for p in expected if name.startswith(p)]
    seen.add(prefix)
    np.testing.assert_array_equal(x, -expected[prefix], err_msg=name)
  assert seen == expected.keys()


@pytest.mark.slow
def test_stacked_layers_learn_as_layers_of_their_own():
  params, stacked = tree(), tree(scan=True)
  flat = by_name(stacked)
  own = parameters.unstack({k: np.asarray(x) for k, x in flat.items()}, 3)
  assert own.keys() == by_name(params).keys()
  optimizer = AdamW(
    0.1,
    Constant(),
    weight_decay=0.3,
    layer_decay=0.75,
    groups=(Group("head/.*", multiplier=2.0),),
  )
  steps = one_step(optimizer, stacked)
  steps = parameters.unstack({k: np.asarray(x) for k, x in steps.items()}, 3)
  plain = jax.tree_util.tree_map_with_path(
    lambda path, _: jnp.asarray(own[parameter_groups.path_name(path)]), params
  )
  # The same numbers but for the rounding of a product of multipliers.
  chex.assert_trees_all_close(
    dict(sorted(steps.items())), one_step(optimizer, plain), rtol=1e-6
  )


def test_multipliers_of_groups_come_on_top_and_the_first_counts():
  groups = (
    Group("head/bias", multiplier=10.0),
    Group("head/.*", multiplier=4.0),
    Group("Transformer/encoderblock_1/.*", multiplier=3.0),
  )
  step = one_step(
    Sgd(1.0, Constant(), momentum=None, layer_decay=0.5, groups=groups), tree()
  )
  assert (step["head/bias"] == -10).all()
  assert (step["head/kernel"] == -4).all()
  # 3 * 0.5^2.
  norm = step["Transformer/encoderblock_1/LayerNorm_0/scale"]
  assert (norm == -0.75).all()


PROBE = (Group("(?!head/).*", multiplier=0.0),)


@pytest.mark.parametrize("decay_scale", ["learning_rate", "schedule"])
def test_a_linear_probe_moves_the_head_alone_and_keeps_nothing_else(
  decay_scale,
):
  params = tree()
  optimizer = AdamW(
    0.1,
    weight_decay=0.5,
    decay_scale=decay_scale,
    decay_pattern=".*",
    groups=PROBE,
    clip_norm=1.0,
  )
  # Gradients that are not numbers must not reach what stays.
  gradients = jax.tree_util.tree_map_with_path(
    lambda path, x: (
      jnp.ones_like(x)
      if parameter_groups.path_name(path).startswith("head")
      else jnp.full_like(x, jnp.nan)
    ),
    params,
  )
  step = one_step(optimizer, params, gradients)
  for name, x in step.items():
    moved = name.startswith("head/")
    assert np.isfinite(x).all(), name
    assert (x != 0).all() if moved else (x == 0).all(), name
  state = optimizer.build(100).init(params)
  numbers = sum(x.size for x in jax.tree.leaves(state))
  # Two moments of the head, Adam's count and the schedule's.
  assert numbers == 2 * (8 * 3 + 3) + 2


def test_what_stays_has_no_gradient():
  params = tree()
  optimizer = AdamW(0.1, groups=PROBE)
  gradients = jax.grad(
    lambda p: sum(x.sum() for x in jax.tree.leaves(optimizer.hold(p)))
  )(params)
  for name, x in by_name(gradients).items():
    assert (x == name.startswith("head/")).all(), name


def test_clipping_does_not_look_at_what_stays():
  params = {"head": jnp.ones(2), "body": jnp.ones(2)}
  gradients = {"head": jnp.array([3.0, 4.0]), "body": jnp.full(2, 1e6)}
  optimizer = Sgd(
    1.0,
    Constant(),
    momentum=None,
    clip_norm=1.0,
    groups=(Group("body", multiplier=0.0),),
  )
  step = one_step(optimizer, params, gradients)
  np.testing.assert_allclose(step["head"], [-0.6, -0.8], rtol=1e-6)


def test_navits_two_decays():
  # 0.03 for the body and 3 for the head (arXiv:2307.06304, appendix).
  params = tree()
  zero = jax.tree.map(jnp.zeros_like, params)
  optimizer = AdamW(
    8e-4,
    Constant(),
    weight_decay=0.03,
    groups=(Group("head/kernel", weight_decay=3.0),),
  )
  step, flat = one_step(optimizer, params, zero), by_name(params)
  for name, x in step.items():
    decay = 3.0 if name == "head/kernel" else 0.03
    decay *= name.endswith("/kernel")
    np.testing.assert_allclose(
      x, -8e-4 * decay * flat[name], rtol=1e-6, err_msg=name
    )


@pytest.mark.parametrize("learning_rate", [1e-3, 0.2])
def test_big_visions_decay_does_not_depend_on_the_learning_rate(learning_rate):
  """-sched(t) (lr direction + wd p), as big_vision/optax.py chains it."""
  params = {"kernel": jnp.array([2.0, -4.0]), "bias": jnp.array([3.0])}
  gradients = {"kernel": jnp.array([1.0, 0.5]), "bias": jnp.array([1.0])}
  optimizer = Sgd(
    learning_rate,
    Cosine(warmup_steps=4),
    weight_decay=0.1,
    decay_scale="schedule",
    decay_pattern="kernel",
    momentum=None,
    groups=(Group("kernel", multiplier=3.0),),
  )
  tx = optimizer.build(total_steps=12)
  state = tx.init(params)
  for t in range(12):
    step, state = tx.update(gradients, state, params)
    sched = min(1, t / 4) * 0.5 * (1 + np.cos(np.pi * max(0, t - 4) / 8))
    # The multiplier is of the learning rate alone there.
    direction = 3 * learning_rate * np.array([1.0, 0.5])
    expected = -sched * (direction + 0.1 * np.array([2.0, -4.0]))
    # float32 sums of terms below 1; the cosine's end is good to 1e-7.
    np.testing.assert_allclose(step["kernel"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
      step["bias"], [-sched * learning_rate], rtol=1e-5, atol=1e-6
    )


def _init(pattern, multiplier=2.0):
  params = {"head": {"bias": jnp.ones(2)}}
  groups = (Group(pattern, multiplier=multiplier),)
  return AdamW(0.1, groups=groups).build(total_steps=10).init(params)


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: Group("head/.*"), "changes nothing: give it a multiplier or a"),
    (lambda: Group("(head", multiplier=1.0), "pattern '(head': missing )"),
    (lambda: Group("x", multiplier=-1.0), "multiplier is -1.0: give a number"),
    (lambda: Group("x", weight_decay=-1.0), "weight_decay is -1.0: give a"),
    (
      lambda: AdamW(0.1, groups=(Group("head/.*", weight_decay=20.0),)),
      "weight_decay 20.0 times learning_rate 0.1",
    ),
    (lambda: _init("haed/.*"), "'haed/.*' matches no parameter: paths look"),
    (lambda: _init(".*", 0.0), "groups freeze every parameter"),
  ],
)
def test_refusals(make, text):
  with pytest.raises(ValueError, match=re.escape(text)):
    make()
