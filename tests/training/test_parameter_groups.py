"""Which parameters decay, learn slower, or stay: by path, and by layer."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid, waves
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


@pytest.mark.parametrize(
  "changes",
  [
    {"pool": pooling.ClassToken(), "prefix_position": True},
    {"embedding_norm": True, "norm_after_pool": True, "representation": True},
  ],
)
def test_other_parameters_below_the_blocks_are_the_lowest(changes):
  # The sets of docs/parameters.md that act before the first block.
  params = tree(**changes)
  step = one_step(Sgd(1.0, Constant(), momentum=None, layer_decay=0.5), params)
  lowest = {name for name, x in step.items() if (x == -1 / 16).all()}
  top = {name.split("/")[0] for name in step} - {"Transformer", "head"}
  top -= {"MAPHead_0", "pool_norm", "pre_logits"}
  assert {name.split("/")[0] for name in lowest} == top


@pytest.mark.parametrize("position", [waves.Fourier(), waves.SinCos2D()])
def test_every_kind_of_position_is_the_lowest(position):
  step = one_step(
    Sgd(1.0, Constant(), momentum=None, layer_decay=0.5),
    tree(position=position),
  )
  for name, x in step.items():
    if name.startswith("pos_embedding"):
      np.testing.assert_array_equal(x, -1 / 16)


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


def test_a_groups_decay_needs_no_decay_pattern():
  params = {"bias": jnp.array([2.0]), "kernel": jnp.array([2.0])}
  zero = jax.tree.map(jnp.zeros_like, params)
  groups = (Group("bias", weight_decay=0.5),)
  step = one_step(Sgd(0.1, Constant(), groups=groups), params, zero)
  np.testing.assert_allclose(step["bias"], [-0.1], rtol=1e-6)
  np.testing.assert_array_equal(step["kernel"], 0)


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


def test_the_two_conventions_agree_where_the_decay_is_divided_by_the_peak():
  # configs/vit_s16_i1k.py: big_vision's 1e-4 at learning rate 1e-3.
  params = tree()
  one, other = (
    AdamW(1e-3, Cosine(warmup_steps=2), weight_decay=wd, decay_scale=scale)
    for wd, scale in ((0.1, "learning_rate"), (1e-4, "schedule"))
  )
  txs = [o.build(10) for o in (one, other)]
  states = [tx.init(params) for tx in txs]
  ones = jax.tree.map(jnp.ones_like, params)
  for _ in range(3):
    steps = []
    for i, tx in enumerate(txs):
      step, states[i] = tx.update(ones, states[i], params)
      steps.append(step)
  # Two float32 products in another order, of steps about 1e-3.
  chex.assert_trees_all_close(*steps, rtol=1e-5, atol=1e-9)
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(steps[0])) > 9e-4


@pytest.mark.parametrize(
  ("fields", "text"),
  [
    (
      {"pattern": "head/.*"},
      "the group 'head/.*' changes nothing: give it a multiplier or a "
      "weight_decay",
    ),
    (
      {"pattern": "(head", "multiplier": 1.0},
      "pattern '(head': missing ), unterminated subpattern at position 0",
    ),
    (
      {"pattern": "head", "multiplier": -1.0},
      "multiplier is -1.0: give a number at least 0",
    ),
    (
      {"pattern": "head", "weight_decay": -1.0},
      "weight_decay is -1.0: give a number at least 0",
    ),
  ],
)
def test_groups_that_cannot_be(fields, text):
  with pytest.raises(ValueError) as caught:
    Group(**fields)
  assert str(caught.value) == text


@pytest.mark.parametrize(
  ("fields", "text"),
  [
    (
      {"groups": (Group("haed/.*", multiplier=2.0),)},
      "the group 'haed/.*' matches no parameter: paths look like head/bias",
    ),
    (
      {"groups": (Group("Transformer/encoderblock/.*", multiplier=2.0),)},
      "the group 'Transformer/encoderblock/.*' matches no "
      "parameter: paths look like "
      "Transformer/encoderblock_0/LayerNorm_0/bias",
    ),
    (
      {"groups": (Group(".*", multiplier=0.0),)},
      "groups freeze every parameter: nothing can learn",
    ),
  ],
)
def test_patterns_that_match_nothing_or_all(fields, text):
  params = {
    "head": {"bias": jnp.ones(2)},
    "Transformer": {"encoderblock_0": {"LayerNorm_0": {"bias": jnp.ones(2)}}},
  }
  with pytest.raises(ValueError) as caught:
    AdamW(0.1, **fields).build(total_steps=10).init(params)
  assert str(caught.value) == text


def test_decays_that_take_the_whole_parameter():
  def refusal(**fields):
    with pytest.raises(ValueError) as caught:
      AdamW(0.1, **fields)
    return str(caught.value)

  group = (Group("head/.*", weight_decay=20.0),)
  assert refusal(groups=group) == (
    "weight_decay 20.0 times learning_rate 0.1 is what a step takes off a "
    "parameter: give less than 1"
  )
  assert refusal(weight_decay=3.0, decay_scale="schedule") == (
    "weight_decay 3.0 is what a step takes off a parameter: give less than 1"
  )
  assert refusal(decay_scale="none") == (
    "decay_scale 'none': give learning_rate or schedule"
  )
  assert refusal(layer_decay=0.0) == (
    "layer_decay is 0.0: give a number above 0 and at most 1"
  )
