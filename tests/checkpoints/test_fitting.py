import made_up
import numpy as np
import pytest

from flexivit_jax.checkpoints import init_from
from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import (
  learned_grid,
  position,
  relative,
  rotary,
  row_column,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8)


def _model(**changes):
  fields = dict(
    size=encoder.Size(16, 2, 32, 2),
    position=learned_grid.LearnedGrid((3, 4)),
    pool=pooling.ClassToken(),
    kernel_hw=(16, 16),
    num_classes=5,
  )
  return vit.ViT(**(fields | changes))


def _fit(source, target, dont_load=(), dtype=np.float32):
  arrays = made_up.arrays(source, dtype)
  return arrays, *init_from.fit(source, arrays, target, dont_load, "file")


def _logits(model, arrays, patch_size=16):
  return made_up.logits(model, arrays, IMAGES, patch_size)


IMAGENET = dict(
  image_mean=(0.485, 0.456, 0.406), image_std=(0.229, 0.224, 0.225)
)
SAME_FUNCTION = [
  (
    dict(prefix_position=True, registers=2),
    dict(registers=2),
    ["positions of the tokens in front: added to them"],
  ),
  ({}, dict(scan=True), []),
  (
    dict(scan=True, layer_scale=1e-5, **IMAGENET),
    dict(scan=True),
    [
      "normalisation of pixels: folded into the patch embedding",
      "LayerScale: folded into the projections before it",
    ],
  ),
]


@pytest.mark.parametrize(("old", "new", "lines"), SAME_FUNCTION)
def test_the_function_is_kept(old, new, lines):
  source, target = _model(**old), _model(**new)
  arrays, fitted, said = _fit(source, target)
  assert said == lines
  parameters.check(target, fitted, "file")
  # Roundings of folded values in sums of some hundred terms of order 1.
  np.testing.assert_allclose(
    _logits(target, fitted), _logits(source, arrays), rtol=0, atol=2e-5
  )


def test_other_sizes_are_resized_and_said():
  source = _model()
  target = _model(kernel_hw=(32, 32), position=learned_grid.LearnedGrid((7, 7)))
  arrays, fitted, said = _fit(source, target)
  assert said == [
    "patch embedding: of 16x16, stored at 32x32",
    "positions: interpolated from 3x4 to 7x7",
  ]
  parameters.check(target, fitted, "file")
  # The resize on the fly turns the kernel back.
  stem = target.clone(position=position.NoPosition())
  own = {n: x for n, x in fitted.items() if n != "pos_embedding"}
  plain = {n: x for n, x in arrays.items() if n != "pos_embedding"}
  np.testing.assert_allclose(
    _logits(stem, own),
    _logits(source.clone(position=position.NoPosition()), plain),
    rtol=0,
    atol=2e-5,
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ("old", "new", "line"),
  [
    (
      row_column.RowColumn((9, 8)),
      row_column.RowColumn((3, 4)),
      "positions: the first 3x4 of 9x8",
    ),
    (
      row_column.JointTable((9, 8)),
      row_column.JointTable((9, 4)),
      "positions: the first 9x4 of 9x8",
    ),
    (
      row_column.RowColumn((9, 8), "product", "interpolated"),
      row_column.RowColumn((3, 4), "product", "interpolated"),
      "positions: interpolated from 9x8 to 3x4",
    ),
    (relative.Relative((3, 4)), relative.Relative((3, 4)), None),
  ],
)
def test_other_positions_keep_the_function_on_the_grid(old, new, line):
  # Of 3x4 patches, which all the tables have a place for.
  source, target = _model(position=old), _model(position=new, scan=True)
  arrays, fitted, said = _fit(source, target)
  assert said == ([line] if line else [])
  parameters.check(target, fitted, "file")
  np.testing.assert_allclose(
    _logits(target, fitted), _logits(source, arrays), rtol=0, atol=2e-5
  )


@pytest.mark.parametrize(
  ("old", "new", "fresh"),
  [
    (
      row_column.RowColumn((3, 8)),
      row_column.RowColumn((5, 4)),
      ["pos_embedding_col", "pos_embedding_row"],
    ),
  ],
)
def test_places_that_nobody_knows_are_refused_unless_fresh(old, new, fresh):
  source, target = _model(position=old), _model(position=new)
  with pytest.raises(ValueError) as caught:
    _fit(source, target)
  sizes = ["x".join(map(str, p.size)) for p in (old, new)]
  assert str(caught.value) == (
    f"file has positions of {sizes[0]} places and the model of {sizes[1]}, of "
    "which nobody knows those beyond: give model.position.size="
    f"{old.size}, or start with fresh ones by dont_load=('pos_embedding_.*',)"
  )
  _, fitted, said = _fit(source, target, ("pos_embedding_.*",))
  assert said == [f"not loaded, freshly initialised: {', '.join(fresh)}"]
  assert fitted.keys() == parameters.shapes(target).keys() - set(fresh)


@pytest.mark.parametrize(
  ("old", "new", "hint"),
  [
    (
      row_column.RowColumn((3, 8), read="fractional"),
      row_column.RowColumn((3, 4), read="fractional"),
      "model.position.size=(3, 8)",
    ),
    (
      row_column.RowColumn((3, 8)),
      learned_grid.LearnedGrid((3, 3)),
      "model.position=row_column, model.position.size=(3, 8)",
    ),
    (
      learned_grid.LearnedGrid((3, 3)),
      rotary.Rotary(),
      "model.position=learned_grid, model.position.size=(3, 3)",
    ),
  ],
)
def test_positions_that_do_not_fit_are_refused_with_a_hint(old, new, hint):
  with pytest.raises(ValueError) as caught:
    _fit(_model(position=old), _model(position=new))
  assert str(caught.value).splitlines()[-1] == (
    f"hint: the checkpoint was made with {hint}"
  )


def test_stored_types_become_float32():
  _, fitted, _ = _fit(_model(), _model(), dtype=np.float16)
  assert {x.dtype.name for x in fitted.values()} == {"float32"}


def test_what_is_not_loaded_is_left_out_and_said():
  target = _model(num_classes=7, registers=2)
  _, fitted, said = _fit(_model(), target, ("head/.*", "registers"))
  assert said == [
    "not loaded, freshly initialised: head/bias, head/kernel, registers"
  ]
  wanted = parameters.shapes(target).keys()
  assert fitted.keys() == wanted - {"head/kernel", "head/bias", "registers"}


def test_conventions_that_differ_are_noted():
  target = _model(
    exact_gelu=True, position=learned_grid.LearnedGrid((3, 4), antialias=False)
  )
  _, _, said = _fit(_model(norm_eps=1e-12), target)
  assert said == [
    "note: gelu is tanh in the checkpoint and exact in the model "
    "(model.exact_gelu)",
    "note: eps is 1e-12 in the checkpoint and 1e-06 in the model "
    "(model.norm_eps)",
    "note: posemb_antialias is True in the checkpoint and False in the model "
    "(model.position.antialias)",
  ]


FRESH = "to start with a fresh head, give dont_load=('head/.*',)"


@pytest.mark.parametrize(
  ("old", "new", "dont_load", "text"),
  [
    (
      {},
      dict(num_classes=7),
      (),
      f"the head of file has 5 classes and the model's 7: {FRESH}",
    ),
    (
      dict(num_classes=0),
      {},
      (),
      "file has no head: to start with a fresh one, give "
      "dont_load=('head/.*',)",
    ),
    (
      {},
      {},
      ("heat/.*",),
      "dont_load 'heat/.*' matches no array of file or of the model; they are "
      "Transformer/encoder_norm/bias, ",
    ),
    (
      {},
      dict(pool=pooling.Gap()),
      (),
      "file does not match the model:\n"
      "  kind        name  checkpoint  model\n"
      "  unexpected  cls   (1, 1, 16)  -\n"
      "hint: the checkpoint was made with model.pool=tok",
    ),
  ],
)
def test_what_does_not_fit_is_refused(old, new, dont_load, text):
  with pytest.raises(ValueError) as caught:
    _fit(_model(**old), _model(**new), dont_load)
  assert str(caught.value).startswith(text)
