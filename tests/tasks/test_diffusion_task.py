"""The diffusion task: its loss by hand, packs, refusals, and what it draws."""

import dataclasses
import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.core import image_rng
from flexivit_jax.core.tokens import Batch, patchify
from flexivit_jax.models import cost, vit
from flexivit_jax.nn import adaln, encoder, pooling
from flexivit_jax.nn.adaln import TimeAndClass, sinusoids
from flexivit_jax.nn.positions import waves
from flexivit_jax.nn.stems import resnet
from flexivit_jax.tasks import noise
from flexivit_jax.tasks import sampler as sampler_lib
from flexivit_jax.tasks.diffusion import Diffusion, visible
from tests.core.rows import in_one_row

MODEL = vit.ViT(
  size=encoder.Size(16, 1, 32, 2),
  position=waves.SinCos2D(),
  pool=pooling.Gap(),
  kernel_hw=(2, 2),
  num_classes=0,
  conditioning=adaln.AdaLNZero(),
)
TASK = Diffusion(
  num_classes=3, sampler=sampler_lib.Sampler(steps=3, guidance=2.0)
)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)


def _batch(images=IMAGES, **changes):
  n = len(images)
  fields = dict(
    inputs=jnp.asarray(images),
    labels=jnp.arange(n, dtype=jnp.int32)[:, None],
    weights=jnp.ones((n, 1)),
    index=jnp.arange(n, dtype=jnp.int32)[:, None],
  )
  return Batch(**(fields | changes))


@functools.cache
def _initialised():
  return TASK.init(MODEL, jax.random.key(0), _batch().inputs, (2, 2))


@functools.cache
def _random():
  """Parameters without the zeros of the beginning."""
  leaves, tree = jax.tree.flatten(_initialised())
  rng = np.random.default_rng(0)
  leaves = [(0.2 * rng.normal(size=x.shape)).astype(np.float32) for x in leaves]
  return jax.tree.unflatten(tree, leaves)


@functools.partial(jax.jit, static_argnames=("patch_hw", "task", "model"))
def _measure(params, batch, *, patch_hw=(2, 2), task=TASK, model=MODEL, **key):
  return task.measure(model, params, batch, patch_hw=patch_hw, **key)


@functools.partial(jax.jit, static_argnames=("sampler", "patch_hw", "image_hw"))
def _sample(
  params, labels, keys, sampler=None, patch_hw=(2, 2), image_hw=(4, 4)
):
  return TASK.sample(
    MODEL,
    params,
    labels,
    keys,
    image_hw=image_hw,
    patch_hw=patch_hw,
    sampler=sampler,
  )


KEYS = jax.random.split(jax.random.key(5), 2)


def test_the_loss_at_the_beginning_is_the_mean_square_of_the_noise():
  """The head begins at zero, so the answer is 0."""
  found = _measure(_initialised(), _batch())
  key = image_rng.key_for("diffusion noise", None)
  keys = image_rng.image_keys(key, _batch().index)
  drawn = image_rng.normal_of_tokens(keys, patchify(_batch().inputs, (2, 2)))
  np.testing.assert_allclose(
    float(found["loss"]), jnp.square(drawn).mean(), rtol=1e-6
  )
  assert float(found["loss"].count) == 2
  halves = found["loss_little_noise"] + found["loss_much_noise"]
  np.testing.assert_allclose(halves.total, found["loss"].total, rtol=1e-6)
  assert float(halves.count) == 2


def test_the_loss_by_hand_of_the_velocity():
  """Which needs the time's own level, that the noise alone does not."""
  task = dataclasses.replace(TASK, predicts=noise.PredictVelocity())
  found = float(_measure(_initialised(), _batch(), task=task)["loss"])
  tokens = patchify(_batch().inputs, (2, 2))
  time, normal = (
    image_rng.image_keys(
      image_rng.key_for(f"diffusion {name}", None), _batch().index
    )
    for name in ("time", "noise")
  )
  times = (np.asarray(image_rng.of_images(time)) * 1000).astype(int)
  kept = TASK.schedule.kept()[times].reshape(2, 1, 1)
  x = np.asarray(tokens.patches) / 127.5 - 1
  e = np.asarray(image_rng.normal_of_tokens(normal, tokens))
  want = np.square(np.sqrt(kept) * e - np.sqrt(1 - kept) * x).mean()
  np.testing.assert_allclose(found, want, rtol=1e-5)


def test_class_and_time_change_the_answer():
  base = float(_measure(_random(), _batch())["loss"])
  other = _batch(labels=jnp.array([[1], [0]]))
  assert abs(float(_measure(_random(), other)["loss"]) - base) > 1e-4
  times = jnp.array([[0], [999]])
  module = TimeAndClass(16, 3)
  own = {"params": _random()["diffusion"]["condition"]}
  vectors = module.apply(own, times, jnp.zeros((2, 1), jnp.int32))
  assert np.abs(vectors[0] - vectors[1]).max() > 0.1


def test_sinusoids_by_formula():
  times = np.array([0, 7, 999])
  rates = np.exp(-np.log(10_000) * np.arange(128) / 128)
  want = np.concatenate(
    [np.cos(times[:, None] * rates), np.sin(times[:, None] * rates)], axis=-1
  )
  # Float32 of angles up to 999: 6e-5.
  np.testing.assert_allclose(sinusoids(jnp.asarray(times)), want, atol=1e-4)


def test_packed_equals_separate():
  """The same losses, of the same times, noise and dropped classes."""
  key = jax.random.key(3)
  separate = _measure(_random(), _batch(), dropout_key=key)
  packed = _batch(
    inputs=in_one_row(IMAGES, (2, 2)),
    labels=jnp.array([[0, 1, 0]]),
    weights=jnp.array([[1.0, 1.0, 0.0]]),
    index=jnp.array([[0, 1, -1]]),
  )
  found = _measure(_random(), packed, patch_hw=None, dropout_key=key)
  for name in TASK.metrics:
    # Sums of 48 squares in another order.
    np.testing.assert_allclose(
      found[name].total, separate[name].total, rtol=1e-5, err_msg=name
    )
    assert float(found[name].count) == float(separate[name].count)
  swapped = dataclasses.replace(packed, index=jnp.array([[1, 0, -1]]))
  swapped = _measure(_random(), swapped, patch_hw=None, dropout_key=key)
  assert abs(float(swapped["loss"]) - float(separate["loss"])) > 1e-3


@pytest.mark.slow
def test_samples_depend_on_key_class_and_guidance_and_on_nothing_else():
  labels = jnp.array([0, 1])
  found = _sample(_random(), labels, KEYS)
  assert found.shape == (2, 4, 4, 3)
  assert found.dtype == jnp.float32
  # The same image alone: other products, of numbers up to 1.
  alone = _sample(_random(), labels[1:], KEYS[1:])
  np.testing.assert_allclose(alone[0], found[1], atol=1e-5)
  sampler = TASK.sampler
  others = {
    "class": _sample(_random(), jnp.array([2, 2]), KEYS),
    "key": _sample(_random(), labels, KEYS[::-1]),
    "guidance": _sample(
      _random(), labels, KEYS, dataclasses.replace(sampler, guidance=1.0)
    ),
    "eta": _sample(
      _random(), labels, KEYS, dataclasses.replace(sampler, eta=1.0)
    ),
  }
  for name, other in others.items():
    assert np.abs(other - found).max() > 1e-3, name


@pytest.mark.slow
def test_guidance_of_one_is_the_class_alone_and_of_zero_no_class():
  """The shortcut of 1 equals the formula near 1; 0 equals the null class."""
  labels = jnp.array([0, 1])

  def sampled(labels, guidance):
    sampler = dataclasses.replace(TASK.sampler, guidance=guidance)
    return _sample(_random(), labels, KEYS, sampler)

  near = sampled(labels, 1.000001)
  np.testing.assert_allclose(sampled(labels, 1.0), near, atol=1e-4)
  none = sampled(jnp.array([3, 3]), 1.0)
  np.testing.assert_allclose(sampled(labels, 0.0), none, atol=1e-5)
  assert np.abs(none - near).max() > 1e-3


def test_visible_scales_clips_and_takes_three_channels():
  x = jnp.array([-2.0, -1.0, 0.0, 1.0]).reshape(1, 1, 1, 4)
  np.testing.assert_array_equal(visible(x)[0, 0, 0], [0, 0, 128])
  assert visible(x[..., :2]).shape == (1, 1, 1, 1)


def test_parameters_lie_beside_the_backbone():
  params = _initialised()
  backbone = dict(params)
  own = flax.traverse_util.flatten_dict(backbone.pop("diffusion"), sep="/")
  assert {name: x.shape for name, x in own.items()} == {
    "condition/time_0/kernel": (256, 16),
    "condition/time_0/bias": (16,),
    "condition/time_1/kernel": (16, 16),
    "condition/time_1/bias": (16,),
    "condition/classes": (4, 16),
    "pixels/kernel": (16, 2, 2, 3),
    "pixels/bias": (2, 2, 3),
  }
  plain = MODEL.init(jax.random.key(0), patchify(IMAGES, (2, 2)))["params"]
  assert jax.tree.structure(backbone) == jax.tree.structure(plain)
  assert not own["pixels/kernel"].any()


def test_cost_has_the_head_and_the_condition():
  found = TASK.multiply_adds(MODEL, (4, 4), (2, 2))
  of_model = cost.multiply_adds(MODEL, (4, 4), (2, 2))
  assert found - of_model == 4 * 16 * 12 + 256 * 16 + 16 * 16
  packed = TASK.packed_multiply_adds(MODEL, 4, 1, ((2, 2),))
  assert packed == found


def test_classes_of_the_data_are_taken_over():
  classes = ("a", "b")
  model, task = Diffusion().for_classes(MODEL.clone(num_classes=None), classes)
  assert (model.num_classes, task.num_classes) == (0, 2)
  _, task = Diffusion(num_classes=0).for_classes(MODEL, classes)
  assert task.num_classes == 0
  # What a run's record says gives the same again.
  again = task.for_classes(model, classes)
  assert again == (model, task)


GUIDED = sampler_lib.Sampler(guidance=2.0)


@pytest.mark.parametrize(
  ("task", "changes", "text"),
  [
    (
      Diffusion(),
      {"conditioning": adaln.Unconditioned()},
      'give config.model.conditioning="adaln_zero"',
    ),
    (
      Diffusion(),
      {"num_classes": 10},
      "config.model.num_classes is 10.*leave it out; config.task.num_classes=0 "
      "learns without classes",
    ),
    (
      Diffusion(),
      {"pool": pooling.Map()},
      'config.model.pool is map.*give config.model.pool="gap"',
    ),
    (
      Diffusion(),
      {"stem": resnet.ResNet(()), "kernel_hw": (1, 1)},
      'give config.model.stem="none"',
    ),
    (Diffusion(), {"standardize": True}, "give config.model.standardize=False"),
    (Diffusion(num_classes=1), {}, "is 1, but the data has 2 .*give 2 or more"),
    (
      Diffusion(class_dropout=0.0, sampler=GUIDED),
      {},
      "guidance is 2.*give config.task.class_dropout=0.1 and .*or guidance=1",
    ),
  ],
)
def test_models_and_data_that_do_not_fit_are_refused(task, changes, text):
  model = MODEL.clone(**{"num_classes": None, **changes})
  with pytest.raises(ValueError, match=text):
    task.for_classes(model, ("a", "b"))


def test_other_refusals():
  labels = jnp.zeros((2, 1, 2), jnp.int32)
  for make, text in (
    (lambda: Diffusion(class_dropout=1.0), "class_dropout is 1.0: give a"),
    (
      lambda: Diffusion(schedule=noise.CosineNoise(20)),
      "steps is 50, and the noise has 20 times: give at most 20",
    ),
    (
      lambda: _measure(_random(), _batch(labels=labels)),
      "give data with one label for each image",
    ),
  ):
    with pytest.raises(ValueError, match=text):
      make()
