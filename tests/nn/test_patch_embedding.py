"""Patches of several sizes in one row equal rows of one size each."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.core import resolution, token_drop
from flexivit_jax.core.patch_size import FixedPatchSize, SampledPatchSize
from flexivit_jax.core.tokens import Tokens
from flexivit_jax.data.packing import rows as rows_lib
from flexivit_jax.data.packing.cutter import Cutter
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid

SIZES = ((4, 4), (8, 6), (3, 9))  # padded to 8x9
SLOTS, LENGTH = 4, 60

rng = np.random.default_rng(0)
IMAGES = [
  rng.integers(0, 256, (h, w, 3), np.uint8)
  for h, w in ((12, 18), (24, 16), (9, 27), (16, 12), (24, 18), (6, 45))
]


def cut(image, sizes, index):
  """Patches and cells of an image at one of the sizes."""
  cutter = Cutter(
    resolution.Native(),
    SampledPatchSize(sizes) if len(sizes) > 1 else FixedPatchSize(sizes[0]),
    token_drop.NoDrop(),
    LENGTH,
  )
  single = Cutter(
    resolution.Native(), FixedPatchSize(sizes[index]), cutter.drop, LENGTH
  )
  plan = single.plan(image.shape[:2], None, 0, "")
  return cutter.cut(image, plan, None)


def packed(rows, sizes=SIZES) -> Tokens:
  """Rows of (image, size index) pairs as Tokens."""
  made = []
  for row in rows:
    images = [
      dict(
        zip(("patches", "cells"), cut(IMAGES[i], sizes, s), strict=True),
        image=np.array([[0, i]], np.int32),
      )
      for i, s in row
    ]
    feed = rows_lib.Images(iter(images).__next__, lambda place: None)
    options = rows_lib.Packing(LENGTH, SLOTS, open_rows=1)
    made += rows_lib.rows(feed, options, None)
  assert len(made) == len(rows)
  return jax.tree.map(jnp.asarray, rows_lib.to_batch(made, sizes, SLOTS).inputs)


# Every image twice, at other sizes, in other company.
MIXTURE = (
  ((0, 0), (1, 1), (2, 2), (3, 1)),
  ((4, 1), (5, 2), (0, 2)),
  ((1, 0), (3, 2)),
)


def model(**changes):
  fields = dict(
    size=encoder.Size(16, 1, 32, 2),
    position=learned_grid.LearnedGrid((3, 3)),
    pool=pooling.Gap(),
    kernel_hw=(6, 5),
    num_classes=5,
    dtype="float64",
  )
  return vit.ViT(**fields | changes)


def random_params(vit_model):
  tokens = packed(MIXTURE)
  shapes = jax.eval_shape(lambda: vit_model.init(jax.random.key(0), tokens))
  leaves, tree = jax.tree.flatten(shapes["params"])
  random = np.random.default_rng(1)
  return tree.unflatten(
    [jnp.asarray(random.normal(size=x.shape) * 0.3) for x in leaves]
  )


@functools.partial(jax.jit, static_argnums=0)
def apply(vit_model, params, tokens):
  return vit_model.apply({"params": params}, tokens).logits


def separate(vit_model, params):
  """Logits of each pair of the mixture, in a row and a size of its own."""
  found = {}
  for size, patch_hw in enumerate(SIZES):
    own = [i for row in MIXTURE for i, s in row if s == size]
    alone = packed([((i, 0),) for i in own], (patch_hw,))
    assert alone.size_index is None
    logits = apply(vit_model, params, alone)[:, 0]
    found |= {(i, size): x for i, x in zip(own, logits, strict=True)}
  return found


MODELS = [
  {},
  {"pool": pooling.ClassToken(), "registers": 2},
  {"pool": pooling.Map(), "kernel_antialias": True},
  {"image_mean": (0.4, 0.5, 0.6), "image_std": (0.2, 0.3, 0.25)},
]


@pytest.mark.parametrize("changes", MODELS)
def test_mixed_sizes_equal_separate_sizes(changes, float64):
  vit_model = model(**changes)
  params = random_params(vit_model)
  found = apply(vit_model, params, packed(MIXTURE))
  expected = separate(vit_model, params)
  for r, row in enumerate(MIXTURE):
    for slot, pair in enumerate(row):
      # Float64 throughout but for the weights of the positions, which are the
      # same float32 numbers on both sides.
      np.testing.assert_allclose(
        found[r, slot], expected[pair], rtol=0, atol=1e-10
      )
  # They are no constants: other images and sizes are other logits.
  values = np.stack(list(expected.values()))
  distances = np.abs(values[:, None] - values[None]).max(axis=-1)
  assert distances[~np.eye(len(values), dtype=bool)].min() > 1e-3


def test_gradients_of_mixed_sizes_equal_those_of_separate_sizes(float64):
  vit_model = model()
  params = random_params(vit_model)
  weights = np.random.default_rng(2).normal(size=(3, SLOTS, 5))

  def mixed(params):
    logits = apply(vit_model, params, packed(MIXTURE))
    real = [[slot < len(row) for slot in range(SLOTS)] for row in MIXTURE]
    return (jnp.where(np.array(real)[..., None], logits, 0) * weights).sum()

  def alone(params):
    logits = separate(vit_model, params)
    return sum(
      (logits[pair] * weights[r, slot]).sum()
      for r, row in enumerate(MIXTURE)
      for slot, pair in enumerate(row)
    )

  found, expected = (jax.jit(jax.grad(f))(params) for f in (mixed, alone))
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected)
  ):
    # Sums of some hundred products of order 1.
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-9, err_msg=str(path))
  assert np.abs(found["embedding"]["kernel"]).min() > 0


@pytest.mark.parametrize(
  ("changes", "text"),
  [
    (dict(size_index=None), "and no size_index: several sizes need one"),
    (dict(patch_sizes=((8, 9),)), "and size_index: .* a single size has none"),
    (dict(patch_sizes=((4, 4), (8, 8))), "8x8 pixels of 3 channels are 192"),
  ],
)
def test_tokens_that_contradict_themselves_are_refused(changes, text):
  tokens = dataclasses.replace(packed(MIXTURE), **changes)
  with pytest.raises(ValueError, match=text):
    model(dtype="float32").init(jax.random.key(0), tokens)
