"""Our models there and back through each format of safetensors."""

import functools

import made_up
import numpy as np
import pytest

from flexivit_jax.checkpoints import load, safetensors, save
from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.models import vit as vit_lib
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid, position, row_column, waves

IMAGENET = dict(
  image_mean=(0.485, 0.456, 0.406), image_std=(0.229, 0.224, 0.225)
)
INTERPOLATED_ROWS = row_column.RowColumn(
  (3, 5), read="interpolated", antialias=False
)


def _model(**changes):
  fields = dict(
    size=encoder.Size(24, 2, 60, 3),
    position=learned_grid.LearnedGrid((3, 4)),
    pool=pooling.Gap(),
    kernel_hw=(8, 6),
    num_classes=5,
    exact_gelu=True,
  )
  return vit_lib.ViT(**(fields | changes))


_timm = functools.partial(_model, pool=pooling.ClassToken())
_vit = functools.partial(_timm, prefix_position=True, norm_eps=1e-12)
_siglip2 = functools.partial(
  _model,
  position=learned_grid.LearnedGrid((3, 3)),
  pool=pooling.Map(),
  kernel_hw=(6, 6),
  num_classes=0,
  exact_gelu=False,
)
_pix2struct = functools.partial(
  _model,
  position=row_column.RowColumn((9, 9), read="absolute", first=1),
  num_classes=0,
  exact_gelu=False,
  rms_norm=True,
  gated_mlp=True,
  qkv_bias=False,
  proj_bias=False,
  attention_scale=1.0,
  standardize=True,
)

MODELS = {
  "timm": {
    "class token with a position": _timm(prefix_position=True),
    "registers, LayerScale, QK norm": _timm(
      registers=3, layer_scale=1e-5, qk_norm=True
    ),
    "average after a class token": _timm(
      pool=pooling.Gap(class_token=True), prefix_position=True
    ),
    "average, then norm": _timm(
      pool=pooling.Gap(), norm_after_pool=True, embedding_norm=True
    ),
    "attention pooling, one channel": _timm(pool=pooling.Map(), channels=1),
    "no biases, no head": _timm(qkv_bias=False, proj_bias=False, num_classes=0),
    "stacked, tanh, pixels": _timm(scan=True, exact_gelu=False, **IMAGENET),
  },
  "hugging_face": {
    "tanh, eps, pixels": _vit(
      exact_gelu=False, norm_eps=1e-6, image_mean=(0.1, 0.2, 0.3)
    ),
    "no biases, one channel": _vit(qkv_bias=False, channels=1),
    "a pooler, no head": _vit(num_classes=0, representation=True),
    "stacked": _vit(scan=True),
  },
  "naflexvit": {
    "grid": _model(position=learned_grid.LearnedGrid((4, 4), False)),
    "rows and columns": _model(position=INTERPOLATED_ROWS, channels=1),
    "no positions": _model(position=position.NoPosition(), scan=True),
    "class token, norm after": _model(
      pool=pooling.ClassToken(), registers=2, norm_after_pool=True
    ),
    "average beside a class token": _model(
      pool=pooling.Gap(True), embedding_norm=True
    ),
    "attention pooling": _model(
      pool=pooling.Map(), layer_scale=1e-5, qk_norm=True
    ),
    "no biases, no head, tanh, pixels": _model(
      qkv_bias=False,
      proj_bias=False,
      num_classes=0,
      exact_gelu=False,
      **IMAGENET,
    ),
  },
  "siglip2": {
    "no pool": _siglip2(pool=pooling.Gap()),
    "exact, eps, pixels, stacked": _siglip2(
      exact_gelu=True, norm_eps=1e-5, image_mean=(0.1, 0.2, 0.3), scan=True
    ),
  },
  "pix2struct": {
    "exact, eps, stacked": _pix2struct(
      exact_gelu=True, norm_eps=1e-5, scan=True
    ),
  },
}


@pytest.mark.parametrize(
  ("format", "case"),
  [(format, case) for format, cases in MODELS.items() for case in cases],
)
@pytest.mark.parametrize("noted", [True, False])
def test_ours_there_and_back_is_exact(format, case, noted, tmp_path):
  model = MODELS[format][case]
  classes = ("cat", "dog", "eel", "fox", "gnu")[: model.num_classes]
  checkpoint = made_up.checkpoint(model, classes)
  save.save(checkpoint, tmp_path / "out", format)
  file = tmp_path / "out" / "model.safetensors"
  if not noted:  # the JSON files alone, as the program's own
    arrays, _ = safetensors.read(file)
    safetensors.write(file, arrays, {})
  again = load.read(file)
  arrays = checkpoint.arrays
  if model.scan:
    arrays = parameters.unstack(arrays, model.size.depth)
    model = model.clone(scan=False)
  assert again.model == model
  assert again.spec.classes == classes
  assert again.spec.patch_size == model.kernel_hw
  assert again.arrays.keys() == arrays.keys()
  for name, x in arrays.items():
    np.testing.assert_array_equal(again.arrays[name], x)


INTERPOLATED = (
  "positions but a learned grid, interpolated rows and columns, and none"
)
PROGRAMS = {
  "timm": "timm",
  "hugging_face": "Hugging Face's ViT",
  "naflexvit": "timm's NaFlexVit",
  "siglip2": "Hugging Face's SigLIP2",
  "pix2struct": "Hugging Face's Pix2Struct",
}


@pytest.mark.parametrize(
  ("format", "model", "lacking"),
  [
    ("timm", _timm(position=waves.SinCos2D()), "positions without a table"),
    ("timm", _timm(gated_mlp=True, rms_norm=True), "rms_norm, no gated_mlp"),
    (
      "hugging_face",
      _vit(pool=pooling.Map()),
      "pooling but by its class token",
    ),
    (
      "hugging_face",
      _vit(layer_scale=1e-5),
      "layer_scale (--fold_layer_scale multiplies it into its layers)",
    ),
    ("hugging_face", _vit(representation=True), "representation before a head"),
    ("naflexvit", _model(position=waves.SinCos2D()), INTERPOLATED),
    ("naflexvit", _model(representation=True), "representation"),
    ("siglip2", _siglip2(num_classes=3), "head of classes"),
    ("siglip2", _siglip2(kernel_hw=(8, 6)), "patches but square ones"),
    ("pix2struct", _pix2struct(qkv_bias=True), "biases in its blocks"),
    ("pix2struct", _pix2struct(attention_scale=None), "attention_scale but 1"),
    (
      "pix2struct",
      _pix2struct(position=row_column.RowColumn((9, 8), first=1)),
      "positions but the sum of as many rows as columns, read absolutely from "
      "entry 1",
    ),
  ],
)
def test_what_a_format_has_no_place_for_is_refused(
  format, model, lacking, tmp_path
):
  with pytest.raises(ValueError) as caught:
    save.save(made_up.checkpoint(model), tmp_path / "out", format)
  assert str(caught.value) == f"{PROGRAMS[format]} has no {lacking}"
  assert list(tmp_path.iterdir()) == []
