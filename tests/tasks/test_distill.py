"""Distances by hand, and what a student learns from."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.core.cut import to_tokens
from flexivit_jax.core.tokens import Batch
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid
from flexivit_jax.tasks import distillation
from flexivit_jax.tasks.distillation import KL, Distill, Hard, TeacherSpec

STUDENT = jnp.array([[[1.0, 0.0, -1.0]], [[0.0, 2.0, 0.0]]])
TEACHER = jnp.array([[[0.0, 1.0, 0.0]], [[0.0, 2.0, 0.0]]])


def softmax(x):
  e = np.exp(np.asarray(x, np.float64))
  return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_kl_by_its_definition(t):
  p, q = softmax(TEACHER / t), softmax(STUDENT / t)
  wanted = t**2 * (p * np.log(p / q)).sum(-1)
  np.testing.assert_allclose(KL(t)(STUDENT, TEACHER), wanted, atol=1e-6)
  assert wanted[0] > 0.1
  assert wanted[1] == 0


def test_kl_of_a_class_that_is_ruled_out():
  certain = jnp.array([[[0.0, -jnp.inf, -1e9]]])
  found, slope = jax.value_and_grad(lambda x: KL()(x, certain).sum())(
    STUDENT[:1]
  )
  np.testing.assert_allclose(found, -np.log(softmax(STUDENT)[0, 0, 0]), 1e-6)
  assert np.isfinite(slope).all()


def test_hard_is_the_teachers_class():
  wanted = -np.log(softmax(STUDENT)[:, :, 1])
  np.testing.assert_allclose(Hard()(STUDENT, TEACHER), wanted, rtol=1e-6)


def model(**changes):
  return vit.ViT(
    size=encoder.Size(8, 1, 16, 2),
    position=learned_grid.LearnedGrid((2, 2)),
    kernel_hw=(4, 4),
    pool=pooling.Gap(),
    num_classes=3,
    **changes,
  )


def of_noise(params, seed):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.3, x.dtype), params
  )


@pytest.fixture(scope="module")
def taught():
  """Task, student, its parameters, batch and teacher."""
  rng = np.random.default_rng(0)
  batch = Batch(
    inputs=rng.integers(0, 256, (6, 8, 8, 3), np.uint8),
    labels=rng.integers(0, 3, (6, 1), np.int32),
    weights=np.array([1, 1, 1, 1, 1, 0], np.float32)[:, None],
    index=np.arange(6, dtype=np.int32)[:, None],
    teacher_inputs=rng.integers(0, 256, (6, 12, 12, 3), np.uint8),
  )
  task, student = Distill(TeacherSpec("x")), model()
  params = task.init(student, jax.random.key(0), batch.inputs, (4, 4))
  teacher = distillation.Teacher(of_noise(params, 1), model(), (6, 6))
  return task, student, of_noise(params, 2), batch, teacher


def measure(taught, **changes):
  task, student, params, batch, teacher = taught
  task = dataclasses.replace(task, **changes)
  return task.measure(student, params, batch, patch_hw=(4, 4), teacher=teacher)


@pytest.mark.slow
def test_each_sees_its_own_view_at_its_own_patch_size(taught):
  _, student, params, batch, teacher = taught
  own = student.apply({"params": params}, tokens(batch.inputs, 4)).logits
  wanted = teacher.model.apply(
    {"params": teacher.params}, tokens(batch.teacher_inputs, 6)
  ).logits
  found = measure(taught)
  distance = KL()(own, wanted)[:5].mean()
  np.testing.assert_allclose(found["loss"].compute(), distance, rtol=1e-5)
  agrees = (own.argmax(-1) == wanted.argmax(-1))[:5].mean()
  np.testing.assert_allclose(found["agreement"].compute(), agrees)
  right = (wanted.argmax(-1) == batch.labels)[:5].mean()
  np.testing.assert_allclose(found["teacher_accuracy"].compute(), right)
  assert set(found) == set(Distill.metrics)


def tokens(images, patch):
  return to_tokens(images, (patch, patch))


def test_without_a_view_of_its_own_it_sees_the_students(taught):
  task, student, params, batch, _ = taught
  same = dataclasses.replace(batch, teacher_inputs=None)
  twin = distillation.Teacher(params, student, (4, 4))
  found = task.measure(student, params, same, patch_hw=(4, 4), teacher=twin)
  assert float(found["distance"]) == 0
  assert float(found["agreement"]) == 1


def test_labels_have_their_share(taught):
  parts = measure(taught)
  whole = measure(taught, label_weight=0.25)
  by_labels = (whole["loss"].compute() - 0.75 * parts["loss"].compute()) / 0.25
  task, student, params, batch, _ = taught
  own = student.apply({"params": params}, tokens(batch.inputs, 4)).logits
  wanted = task.loss(own, jax.nn.one_hot(batch.labels, 3))[:5].mean()
  np.testing.assert_allclose(by_labels, wanted, rtol=1e-4)


def test_no_gradient_reaches_the_teacher(taught):
  task, student, params, batch, teacher = taught

  def loss(teacher_params, params):
    changed = dataclasses.replace(teacher, params=teacher_params)
    return task.measure(
      student, params, batch, patch_hw=(4, 4), teacher=changed
    )["loss"].compute()

  of_teacher, of_student = jax.grad(loss, argnums=(0, 1))(
    teacher.params, params
  )
  assert all((x == 0).all() for x in jax.tree.leaves(of_teacher))
  assert all((x != 0).any() for x in jax.tree.leaves(of_student["head"]))


@pytest.mark.parametrize(
  ("make", "text"),
  [
    (lambda: KL(0.0), "temperature is 0.0: give more than 0"),
    (
      lambda: Distill(TeacherSpec("x"), label_weight=1.0),
      "label_weight is 1.0: give a number at least 0 and below 1",
    ),
    (lambda: TeacherSpec("x", patch_size=0), "patch_size: patch size 0: give"),
    (lambda: TeacherSpec("x", dtype="int8"), "dtype 'int8': give float32 or"),
  ],
)
def test_refusals(make, text):
  with pytest.raises(ValueError, match=re.escape(text)):
    make()
