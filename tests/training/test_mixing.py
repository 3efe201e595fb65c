"""Mixed images and targets, by hand and over devices."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from flexivit_jax.core.tokens import Batch
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.devices import placement
from flexivit_jax.training import mixing
from flexivit_jax.training.mixing import CutMix, Mixup


def batch(rows=4, side=8, teacher_side=None):
  rng = np.random.default_rng(0)

  def images(side):
    return rng.integers(0, 256, (rows, side, side, 3), np.uint8)

  return Batch(
    inputs=images(side),
    labels=None,
    weights=np.ones((rows, 1), np.float32),
    index=None,
    targets=np.eye(rows, dtype=np.float32)[:, None],
    teacher_inputs=None if teacher_side is None else images(teacher_side),
  )


def unit(images):
  return images.astype(np.float64) / 127.5 - 1


@pytest.mark.parametrize("images", [2, 3])
def test_mixup_weighs_images_and_targets_alike(images):
  given = batch(teacher_side=12)
  for seed in range(5):
    found = Mixup(alpha=0.8, images=images)(jax.random.key(seed), given)
    weights = np.asarray(found.targets[0, 0])
    # Row 0 takes the last rows, the nearest with the larger share.
    order = [0, 3, 2, 1][:images]
    weights = weights[order]
    assert (np.diff(weights) <= 0).all()
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)
    assert (weights > 0).all()
    for x, y in (
      (given.inputs, found.inputs),
      (given.teacher_inputs, found.teacher_inputs),
    ):
      wanted = np.tensordot(weights, unit(x)[order], 1)
      np.testing.assert_allclose(y[0], wanted, atol=1e-6)


def test_mixups_share_is_the_larger_of_a_beta_draw():
  draws = jax.vmap(lambda key: Mixup(1.0)(key, batch()).targets[0, 0, 0])(
    jax.random.split(jax.random.key(0), 2000)
  )
  # Beta(1, 1) is uniform, so its larger part is uniform on [0.5, 1].
  assert draws.min() >= 0.5
  # Standard error of the mean: 0.144 / sqrt(2000) = 0.0032.
  np.testing.assert_allclose(draws.mean(), 0.75, atol=0.013)


def test_cutmix_pastes_the_box_that_its_targets_say():
  given = batch(side=16, teacher_side=32)
  seen = set()
  for seed in range(8):
    found = CutMix()(jax.random.key(seed), given)
    assert found.inputs.dtype == np.uint8
    other = np.roll(given.inputs, 1, axis=0)
    changed = np.asarray((found.inputs != given.inputs).any((0, 3)))
    rows, cols = changed.any(1), changed.any(0)
    box = rows[:, None] & cols
    np.testing.assert_array_equal(changed, box)
    for side in (rows, cols):  # in one piece
      assert (np.diff(np.flatnonzero(side)) == 1).all()
    np.testing.assert_array_equal(
      found.inputs, np.where(box[:, :, None], other, given.inputs)
    )
    share = box.mean()
    np.testing.assert_allclose(found.targets[0, 0, [0, 3]], [1 - share, share])
    # Twice the size: the same part, but for half a pixel at its edges.
    taught = np.asarray(found.teacher_inputs != given.teacher_inputs)
    taught = taught.any((0, 3))
    small = taught.reshape(16, 2, 16, 2)
    assert (small.any((1, 3)) >= box).all()
    inside = small.all((1, 3))
    assert (inside <= box).all()
    seen.add(round(float(share), 3))
  assert len(seen) > 4


@pytest.mark.parametrize("way", [Mixup(probability=0.3), CutMix(1.0, 0.3)])
def test_a_batch_may_be_left_as_it_is(way):
  given = batch()
  keys = jax.random.split(jax.random.key(0), 400)
  own = jax.vmap(lambda key: way(key, given).targets[0, 0, 0])(keys)
  # Standard error 0.023; a box may also miss every pixel's middle.
  left = np.mean(np.asarray(own) == 1)
  assert 0.6 < left < 0.85


def test_several_devices_mix_as_one():
  given = batch(rows=16)
  mix = jax.jit(lambda key, x: mixing.mix((Mixup(), CutMix()), key, x))
  mesh = mesh_lib.make_mesh()
  assert mesh.size == 8
  spread = placement.to_devices(
    dataclasses.replace(given, labels=given.weights, index=given.weights), mesh
  )
  for seed in range(4):
    key = jax.random.key(seed)
    one, many = mix(key, given), mix(key, spread)
    np.testing.assert_array_equal(one.inputs, many.inputs)
    np.testing.assert_array_equal(one.targets, many.targets)


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: Mixup(0.0), "alpha is 0.0: give more than 0"),
    (lambda: Mixup(images=1), "images is 1: give 2 or more"),
    (lambda: CutMix(probability=1.5), "probability is 1.5: give more than 0"),
  ],
)
def test_refusals(make, text):
  with pytest.raises(ValueError, match=re.escape(text)):
    make()
