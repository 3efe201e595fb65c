"""Answers and sweeps with numbers of our own or from a seeded generator."""

import dataclasses

import numpy as np

from flexivit_jax.evaluation.settings import Cost, Point, Route, Setting, Sweep
from flexivit_jax.tasks.predictions import Answers

PATCHES = (48, 40, 30, 24, 20, 16, 15, 12, 10, 8)


def ranked(rank, **fields):
  """Answers to images 0, 1, ...: right at rank 0. Other fields are zeros."""
  rank = np.asarray(rank, np.int32)
  zeros, floats = np.zeros(rank.size, np.int32), np.zeros(rank.size, np.float32)
  made = Answers(
    np.arange(rank.size, dtype=np.int32), zeros, zeros, floats, floats, rank
  )
  return dataclasses.replace(
    made,
    **{k: np.asarray(x, getattr(made, k).dtype) for k, x in fields.items()},
  )


def assert_same(ours, others, rows=slice(None)):
  """Answers that are equal bit for bit, types too."""
  for field in dataclasses.fields(Answers):
    one, other = (getattr(x, field.name)[rows] for x in (ours, others))
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one, other)


def settings(patches=PATCHES, sides=(), budgets=()):
  """All patch sizes at all sides and budgets."""
  found = [Setting((p, p), image_hw=(s, s)) for s in sides for p in patches]
  return found + [Setting((p, p), budget=b) for b in budgets for p in patches]


def answers(rng, *, images, classes, skill, difficulty, label):
  """Of a model that is right more often where skill exceeds difficulty."""
  margin = skill - difficulty + 0.5 * rng.standard_normal(images)
  own = 1 / (1 + np.exp(-3 * margin))
  # A wrong class is one of the label's two neighbours.
  other = (label + rng.integers(1, 3, images)) % classes
  right = (own > 0.5) | (other == label)
  return Answers(
    index=np.arange(images, dtype=np.int32),
    label=label,
    predicted=np.where(right, label, other).astype(np.int32),
    confidence=np.where(right, own, 1 - own).astype(np.float32),
    loss=-np.log(own).astype(np.float32),
    rank=np.where(right, 0, rng.integers(1, max(2, classes), images)).astype(
      np.int32
    ),
  )


def sweep(
  where, *, images=400, classes=10, latency=True, names=None, seed=0, **fields
):
  """A sweep at these settings: more tokens, more skill."""
  rng = np.random.default_rng(seed)
  label = rng.integers(0, classes, images).astype(np.int32)
  difficulty = rng.standard_normal(images)
  found, points = [], []
  for setting in where:
    tokens = setting.budget or (setting.image_hw[0] // setting.patch_hw[0]) * (
      setting.image_hw[1] // setting.patch_hw[1]
    )
    if setting.budget:
      tokens = 0.93 * tokens
    skill = 0.6 * np.log(tokens) - 1 - 0.02 * setting.patch_hw[0]
    found.append(
      answers(
        rng,
        images=images,
        classes=classes,
        skill=skill,
        difficulty=difficulty,
        label=label,
      )
    )
    macs = tokens * 2.2e7 + tokens**2 * 9e3
    slow = 1 + 0.1 * rng.random()
    cost = Cost(
      multiply_adds=macs,
      peak_bytes=int(9e7 + 2e5 * tokens),
      compile_s=4 + 3 * rng.random(),
      latency_s=(macs / 4e11 * slow, macs / 3.5e11 * slow) if latency else None,
      images_per_s=4e11 / macs / slow if latency else None,
    )
    points.append(point(setting, found[-1], tokens=tokens, cost=cost))
  described = {
    "checkpoint": "runs/flexivit_s",
    "step": 90000,
    "model": "ViT-S: width 384, depth 12, 6 heads",
    "parameters": 22_059_274,
    "data": f"invented images of {classes} classes",
    "classes": names or tuple(f"class_{i:03}" for i in range(classes)),
    "command": "python evaluate.py --checkpoint runs/flexivit_s",
    "provenance": {
      "commit": "0" * 40,
      "modified": False,
      "python": "3.11.2",
      "versions": {"jax": "0.10.2", "flax": "0.12.8", "numpy": None},
      "devices": ["cpu"],
    },
  }
  return Sweep(
    **(described | fields), points=tuple(points), answers=tuple(found)
  )


def point(setting, given, *, tokens, cost):
  return Point(
    setting=setting,
    tokens=tokens,
    images=len(given),
    top1=given.top(1),
    top5=given.top(5),
    loss=given.mean_loss,
    calibration_error=given.calibration_error,
    cost=cost,
  )


def with_answers(before, **fields):
  """The same sweep, with fields of all answers replaced."""
  found = tuple(dataclasses.replace(a, **fields) for a in before.answers)
  points = tuple(
    point(p.setting, a, tokens=p.tokens, cost=p.cost)
    for p, a in zip(before.points, found, strict=True)
  )
  return dataclasses.replace(before, points=points, answers=found)


def image(index):
  """A picture of its own for each index: u8 `[40, 60, 3]`."""
  rng = np.random.default_rng(index)
  coarse = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
  return coarse.repeat(10, axis=0).repeat(10, axis=1)


def grid(**fields):
  """Ten patch sizes, three resolutions."""
  return sweep(settings(sides=(160, 240, 320)), **fields)


def small(**fields):
  """Four patch sizes at one resolution."""
  return sweep(settings((48, 24, 12, 8), sides=(240,)), **fields)


ROUTES = (
  Route("single size", "12", 0.978, (-0.012, 0.007), 0.9e6, 50e-6),
  Route("single size", "4", 0.99, (0.0, 0.0), 7.9e6, 150e-6),
  Route("cascade", "12 -(0.93)> 4", 0.986, (-0.004, 0.003), 2e6, 75e-6, True),
)
