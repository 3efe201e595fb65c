"""Encoders for images of any size against the programs that they come from."""

import functools

import golden
import jax
import made_up
import numpy as np
import pytest

from flexivit_jax.checkpoints import load, safetensors, save
from flexivit_jax.checkpoints import model as model_lib
from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.checkpoints.model import LoadedModel
from flexivit_jax.models import vit as vit_lib
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid, position, row_column, waves

# Of the largest number of the reference: what the order of sums leaves in
# float32. Right ones have up to 6e-6.
PARITY = 1e-5

# What `of_each` gives, and what the program calls it.
NAIVE = ("last_hidden_state", "pooler_output", "logits")
FILES = {
  "timm_naflexvit_factorized": "naflexvit",
  "hf_siglip2_vision": "siglip2",
  "hf_pix2struct_vision": "pix2struct",
}
of_every_file = pytest.mark.parametrize("name", FILES)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
  path = tmp_path_factory.mktemp("flexible")
  for name in FILES:
    arrays, _, _ = golden.read_flexible(name)
    safetensors.write(path / f"{name}.safetensors", arrays, {"format": "pt"})
  return path


def _load(directory, name, **given):
  path = directory / f"{name}.safetensors"
  return load.load(path, **({"num_heads": 3} | given))


def _error(vit, name, layout="packed"):
  """Largest difference to the program's numbers, of the largest of those."""
  _, images, numbers = golden.read_flexible(name)
  tokens = golden.LAYOUTS[layout](images, (8, 8))
  # Images that are standardised already.
  model = vit.model.clone(standardize=False)
  errors = []
  for i, found in enumerate(golden.of_each(model, vit.params, tokens)):
    for field, x in zip(NAIVE, found, strict=True):
      if field in numbers:
        wanted = numbers[field][i]
        if field == "last_hidden_state":
          wanted = wanted[: len(x)]  # padding follows
        scale = np.abs(numbers[field]).max()
        errors.append(np.abs(x - wanted).max() / scale)
  return np.max(errors)


@of_every_file
@pytest.mark.parametrize("layout", golden.LAYOUTS)
def test_equals_its_program(name, layout, directory):
  assert _error(_load(directory, name), name, layout) < PARITY


@pytest.mark.parametrize(
  ("name", "field"),
  [
    ("timm_naflexvit_factorized", "logits"),
    ("hf_siglip2_vision", "pooler_output"),
  ],
)
def test_images_of_one_size_may_be_given_as_they_are(name, field, directory):
  vit = _load(directory, name)
  _, images, numbers = golden.read_flexible(name)
  for image, wanted in zip(images, numbers[field], strict=True):
    with jax.default_matmul_precision("highest"):
      found = (vit if field == "logits" else vit.features)(image[None])
    error = np.abs(found[0] - wanted).max() / np.abs(numbers[field]).max()
    assert error < PARITY


def _with(vit, **changes):
  return LoadedModel(vit.model.clone(**changes), vit.params, vit.spec)


def _swapped(names):
  """Two of each block's arrays, or of the model's, one for the other."""

  def mutant(vit):
    checkpoint = vit.checkpoint()
    arrays = dict(checkpoint.arrays)
    first, second = names
    for name in [n for n in arrays if n.endswith(first)]:
      other = name.removesuffix(first) + second
      arrays[name], arrays[other] = arrays[other], arrays[name]
    swapped = model_lib.StoredModel(vit.model, arrays, vit.spec)
    return model_lib.on_device(swapped)

  return mutant


def _other(**changes):
  return lambda vit: _with(vit, **changes)


GELU = "Dense_gate/kernel", "Dense_0/kernel"
TABLES = row_column.ROW, row_column.COL
_interpolated = functools.partial(
  row_column.RowColumn, read="interpolated", antialias=False
)
MUTANTS = {
  "timm_naflexvit_factorized": {
    "tanh": _other(exact_gelu=False),
    "antialias": _other(position=_interpolated((7, 7), antialias=True)),
    "rows for columns": _swapped(TABLES),
    "eps": _other(norm_eps=1e-4),
    "pixels": _other(image_std=(0.51,)),
  },
  "hf_siglip2_vision": {
    "exact": _other(exact_gelu=True),
    "no antialias": _other(position=learned_grid.LearnedGrid((8, 8), False)),
    "eps": _other(norm_eps=1e-4),
    "query for key in the pool": _swapped(
      ("MAPHead_0/MultiHeadDotProductAttention_0/query/kernel",
       "MAPHead_0/MultiHeadDotProductAttention_0/key/kernel")
    ),
  },
  "hf_pix2struct_vision": {
    "exact": _other(exact_gelu=True),
    "scaled attention": _other(attention_scale=None),
    "first entry": _other(position=row_column.RowColumn((64, 64))),
    "gate": _swapped(GELU),
    "rows for columns": _swapped(TABLES),
    "eps": _other(norm_eps=1e-4),
  },
}  # fmt: skip


@pytest.mark.parametrize(
  ("name", "mutant"),
  [(name, mutant) for name, mutants in MUTANTS.items() for mutant in mutants],
)
def test_mutants_are_noticed(name, mutant, directory):
  mutate = MUTANTS[name][mutant]
  assert _error(mutate(_load(directory, name)), name) > PARITY


@of_every_file
@pytest.mark.parametrize("heads", [2, 4])
def test_other_heads_are_noticed(name, heads, directory):
  assert _error(_load(directory, name, num_heads=heads), name) > PARITY


@of_every_file
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_there_and_back_is_exact(name, dtype, tmp_path):
  arrays, _, _ = golden.read_flexible(name)
  arrays = {k: x.astype(np.dtype(dtype)) for k, x in arrays.items()}
  path = tmp_path / "model.safetensors"
  safetensors.write(path, arrays, {})
  checkpoint = load.read(path, num_heads=3)
  assert save.save(checkpoint, tmp_path / "out", FILES[name]) == []
  again, _ = safetensors.read(tmp_path / "out" / "model.safetensors")
  assert again.keys() == arrays.keys()
  for key, x in arrays.items():
    assert again[key].dtype == x.dtype
    np.testing.assert_array_equal(again[key], x)
  read = load.read(tmp_path / "out")
  assert read.model == checkpoint.model
  assert read.spec.patch_size == (8, 8)


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
  "naflexvit": {
    "grid": _model(),
    "rows and columns": _model(position=_interpolated((3, 5))),
    "no positions": _model(position=position.NoPosition()),
    "no antialias": _model(position=learned_grid.LearnedGrid((4, 4), False)),
    "class token": _model(pool=pooling.ClassToken(), registers=2),
    "class token, norm after": _model(
      pool=pooling.ClassToken(), norm_after_pool=True
    ),
    "average after registers": _model(registers=4, norm_after_pool=True),
    "average beside a class token": _model(pool=pooling.Gap(True)),
    "attention pooling": _model(pool=pooling.Map(), registers=1),
    "LayerScale, QK norm": _model(layer_scale=1e-5, qk_norm=True),
    "no biases": _model(qkv_bias=False, proj_bias=False),
    "tanh, ImageNet's pixels": _model(
      exact_gelu=False,
      image_mean=(0.485, 0.456, 0.406),
      image_std=(0.229, 0.224, 0.225),
    ),
    "no head": _model(num_classes=0),
    "one channel": _model(channels=1),
    "norm of the embedding": _model(embedding_norm=True),
    "stacked": _model(scan=True),
  },
  "siglip2": {
    "as it is": _siglip2(),
    "no pool": _siglip2(pool=pooling.Gap()),
    "exact, eps, pixels": _siglip2(
      exact_gelu=True, norm_eps=1e-5, image_mean=(0.1, 0.2, 0.3)
    ),
    "stacked, one channel": _siglip2(scan=True, channels=1),
  },
  "pix2struct": {
    "as it is": _pix2struct(),
    "exact, eps": _pix2struct(exact_gelu=True, norm_eps=1e-5),
    "stacked": _pix2struct(scan=True),
  },
}


@pytest.mark.parametrize(
  ("format", "case"),
  [(format, case) for format, cases in MODELS.items() for case in cases],
)
@pytest.mark.parametrize("noted", [True, False])
def test_ours_there_and_back_is_exact(format, case, noted, tmp_path):
  model = MODELS[format][case]
  checkpoint = made_up.checkpoint(model)
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
  assert again.spec.patch_size == model.kernel_hw
  assert again.arrays.keys() == arrays.keys()
  for name, x in arrays.items():
    np.testing.assert_array_equal(again.arrays[name], x)


SUM = "positions but the sum of as many rows as columns, read absolutely from"
SQUARE = "positions but a square learned grid with antialias"
INTERPOLATED = (
  "positions but a learned grid, interpolated rows and columns, and none"
)


@pytest.mark.parametrize(
  ("format", "model", "lacking"),
  [
    ("naflexvit", _model(position=waves.SinCos2D()), INTERPOLATED),
    (
      "naflexvit",
      _model(position=row_column.RowColumn((3, 3))),
      INTERPOLATED,
    ),
    ("naflexvit", _model(representation=True), "representation"),
    (
      "naflexvit",
      _model(registers=1, prefix_position=True),
      "prefix_position",
    ),
    (
      "naflexvit",
      _model(rms_norm=True, attention_scale=0.5),
      "rms_norm, no attention_scale",
    ),
    ("siglip2", _siglip2(num_classes=3), "head of classes"),
    ("siglip2", _siglip2(registers=3), "registers"),
    (
      "siglip2",
      _siglip2(pool=pooling.ClassToken()),
      "pooling but by attention",
    ),
    ("siglip2", _siglip2(position=learned_grid.LearnedGrid((3, 4))), SQUARE),
    (
      "siglip2",
      _siglip2(position=learned_grid.LearnedGrid((3, 3), False)),
      SQUARE,
    ),
    ("siglip2", _siglip2(kernel_hw=(8, 6)), "patches but square ones"),
    ("siglip2", _siglip2(qkv_bias=False), "qkv_bias=False"),
    ("siglip2", _siglip2(gated_mlp=True), "gated_mlp"),
    ("pix2struct", _pix2struct(qkv_bias=True), "biases in its blocks"),
    ("pix2struct", _pix2struct(rms_norm=False), "LayerNorm"),
    ("pix2struct", _pix2struct(attention_scale=None), "attention_scale but 1"),
    ("pix2struct", _pix2struct(gated_mlp=False), "MLP without a gate"),
    (
      "pix2struct",
      _pix2struct(standardize=False),
      "pixels that are not standardised",
    ),
    (
      "pix2struct",
      _pix2struct(position=row_column.RowColumn((9, 8), first=1)),
      f"{SUM} entry 1",
    ),
    (
      "pix2struct",
      _pix2struct(position=row_column.RowColumn((9, 9))),
      f"{SUM} entry 1",
    ),
  ],
)
def test_what_a_format_has_no_place_for_is_refused(
  format, model, lacking, tmp_path
):
  program = {
    "naflexvit": "timm's NaFlexVit",
    "siglip2": "Hugging Face's SigLIP2",
    "pix2struct": "Hugging Face's Pix2Struct",
  }[format]
  with pytest.raises(ValueError) as caught:
    save.save(made_up.checkpoint(model), tmp_path / "out", format)
  assert str(caught.value) == f"{program} has no {lacking}"
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ("name", "prefix", "others", "left"),
  [
    (
      "hf_siglip2_vision",
      "vision_model.",
      ("text_model.head.weight", "logit_scale", "logit_bias"),
      "logit_bias, logit_scale, text_model (3",
    ),
    (
      "hf_pix2struct_vision",
      "encoder.",
      ("decoder.layer.0.x.weight",),
      "decoder (1",
    ),
  ],
)
def test_the_encoder_of_a_whole_model_is_taken(
  name, prefix, others, left, directory, tmp_path
):
  arrays, _, _ = golden.read_flexible(name)
  whole = {f"{prefix}{k}": x for k, x in arrays.items()}
  path = tmp_path / "model.safetensors"
  safetensors.write(path, whole, {})
  alone = _load(directory, name).checkpoint()
  read = load.read(path, num_heads=3)
  assert read.model == alone.model
  for key, x in alone.arrays.items():
    np.testing.assert_array_equal(read.arrays[key], x)
  assert read.spec.left_out == ""
  whole |= dict.fromkeys(others, np.ones(3, np.float32))
  safetensors.write(path, whole, {})
  read = load.read(path, num_heads=3)
  line = f"  left out: {left} of {len(whole)} arrays)"
  assert line in str(read).splitlines()
  safetensors.write(path, whole | {"classifier.weight": np.ones((2, 3))}, {})
  with pytest.raises(ValueError) as caught:
    load.read(path, num_heads=3)
  assert str(caught.value) == (
    f"{path} holds arrays that no ViT here has: classifier.weight"
  )


@of_every_file
def test_what_was_found_is_said(name, directory):
  lines = str(_load(directory, name)).splitlines()
  positions_line, pixels = {
    "timm_naflexvit_factorized": (
      "sum of 7 rows and 7 columns, interpolated without antialias",
      "10 classes, pixels normalised by mean 0.5, std 0.5",
    ),
    "hf_siglip2_vision": (
      "learned 8x8; other grids bilinear with antialias",
      "no classes, pixels normalised by mean 0.5, std 0.5",
    ),
    "hf_pix2struct_vision": (
      "sum of 64 rows and 64 columns, absolute from entry 1",
      "no classes, pixels standardised, each image by its own mean and std",
    ),
  }[name]
  assert lines[3] == f"  positions {positions_line}"
  assert f"  {pixels}" in lines
  assert "  used at patch size 8x8 where none is given" in lines
  if name == "hf_pix2struct_vision":
    assert lines[5] == (
      "  with no biases of queries, keys and values, no biases after attention "
      "and in MLPs, gated MLPs, RMSNorm, attention scaled by 1"
    )
