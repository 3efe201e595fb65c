"""What holds for every kind of position and pool when images share a row."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.core.tokens import patchify
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import (
  learned_grid,
  relative,
  rotary,
  row_column,
  waves,
)
from flexivit_jax.nn.positions import position as position_lib
from tests import tiny
from tests.core.rows import in_one_row

POSITIONS = {
  "none": position_lib.NoPosition(),
  "learned_grid": learned_grid.LearnedGrid((3, 3)),
  "sincos2d": waves.SinCos2D(),
  "sincos2d of fractions": waves.SinCos2D(fractional_side=4.0),
  "fourier": waves.Fourier(),
  "fourier of fractions": waves.Fourier(fractional_side=4.0),
  # Smaller than the grids below: what is beyond must not mix images either.
  "rows + columns": row_column.RowColumn((3, 2)),
  "rows * columns of fractions": row_column.RowColumn(
    (3, 4), "product", "fractional"
  ),
  "rows beside columns, interpolated": row_column.RowColumn(
    (3, 4), "stack", "interpolated"
  ),
  "joint_table": row_column.JointTable((3, 2)),
  "rotary": rotary.Rotary(),
  "relative": relative.Relative((3, 2)),
}
POOLS = {
  "gap": pooling.Gap(),
  "map": pooling.Map(),
  "tok": pooling.ClassToken(),
  "gap beside a class token": pooling.Gap(class_token=True),
}
# One of each way to reach the model: added, and inside attention.
FAST = (
  "learned_grid",
  "sincos2d of fractions",
  "rows + columns",
  "rotary",
  "relative",
)
OPTIONS = ({}, {"prefix_position": True}, {"norm_after_pool": True})
# Each kind of position, with the pools and options in turn.
CASES = pytest.mark.parametrize(
  ("position", "pool", "options"),
  [
    pytest.param(
      *(position, list(POOLS)[i % 4], OPTIONS[i % 3]),
      marks=[pytest.mark.slow] * (position not in FAST),
    )
    for i, position in enumerate(POSITIONS)
  ],
)

# Of 2x3, 4x2 and 1x2 patches.
GRIDS = ((2, 3), (4, 2), (1, 2))
PADDING = 3


def _model(position, pool, **options):
  return vit.ViT(
    size=encoder.Size(16, 1, 32, 2),
    position=POSITIONS[position],
    pool=POOLS[pool],
    kernel_hw=(6, 6),
    num_classes=5,
    registers=1,
    dtype="float64",
    **options,
  )


@functools.cache
def _images():
  rng = np.random.default_rng(0)
  return [
    jnp.asarray(rng.uniform(-1, 1, (1, 4 * h, 6 * w, 3))) for h, w in GRIDS
  ]


def _row(images):
  return in_one_row([x[0] for x in images], (4, 6), PADDING, 0.77)


def _params(model):
  return {"params": tiny.parameters(model, 1, 0.3)}


def _logits(model, params, tokens):
  # Without jit: the operations are compiled once for all cases.
  return model.apply(params, tokens).logits[0]


@CASES
def test_images_in_a_row_are_computed_as_alone_in_any_order(
  float64, position, pool, options
):
  model = _model(position, pool, **options)
  params = _params(model)
  alone = [_logits(model, params, patchify(x, (4, 6)))[0] for x in _images()]
  for order in ((0, 1, 2), (1, 2, 0), (2, 1, 0)):
    got = _logits(model, params, _row([_images()[i] for i in order]))
    # The same sums in another order, in float64; angles and weights are
    # float32, but the same.
    np.testing.assert_allclose(
      got[:3], [alone[i] for i in order], rtol=0, atol=1e-12
    )
    assert np.isfinite(got).all()
  assert np.abs(alone[0] - alone[1]).max() > 1e-2


@CASES
def test_no_gradient_crosses_from_image_to_image(
  float64, position, pool, options
):
  model = _model(position, pool, **options)
  row = _row(_images())

  def gradient(patches):
    def one_image(patches):
      tokens = dataclasses.replace(row, patches=patches)
      return _logits(model, _params(model), tokens)[1].sum()

    return jax.grad(one_image)(patches)

  found = np.abs(gradient(row.patches)[0]).max(axis=-1)
  own = np.asarray(row.segments[0] == 2)
  assert (found[~own] == 0).all()
  assert (found[own] > 1e-3).all()


@pytest.mark.parametrize("position", POSITIONS)
def test_every_kind_but_none_tells_places_apart(float64, position):
  # Turned round in its grid, the image is another one.
  model = _model(position, "gap")
  tokens = patchify(_images()[0], (4, 6))
  turned = dataclasses.replace(tokens, patches=tokens.patches[:, ::-1])
  a, b = (_logits(model, _params(model), t) for t in (tokens, turned))
  assert (np.abs(a - b).max() < 1e-12) == (position == "none")


@pytest.mark.parametrize("position", POSITIONS)
def test_tokens_may_come_in_any_order(float64, position):
  # Coordinates travel with the patches: [b, l, 2] instead of [1, l, 2].
  model = _model(position, "tok")
  tokens = patchify(_images()[0], (4, 6))
  order = np.random.default_rng(2).permutation(6)
  permuted = dataclasses.replace(
    tokens,
    patches=tokens.patches[:, order],
    coords=tokens.coords[:, order],
  )
  a, b = (_logits(model, _params(model), t) for t in (tokens, permuted))
  np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("position", POSITIONS)
def test_what_attention_uses_is_differences_of_places_alone(float64, position):
  # All patches moved alike; without tokens in front, which have no place.
  model = _model(position, "gap").clone(registers=0)
  tokens = patchify(_images()[0], (4, 6))
  moved = dataclasses.replace(tokens, coords=tokens.coords + 1)
  a, b = (_logits(model, _params(model), t) for t in (tokens, moved))
  # Angles of float32.
  same = position in ("none", "rotary", "relative")
  assert (np.abs(a - b).max() < 1e-6) == same
