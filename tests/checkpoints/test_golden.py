"""Every format against the numbers that its own program gave."""

import functools

import golden
import numpy as np
import pytest

from flexivit_jax.checkpoints import load, npz, safetensors, save
from flexivit_jax.checkpoints import model as model_lib
from flexivit_jax.checkpoints.model import LoadedModel
from flexivit_jax.nn.positions import learned_grid, row_column

# What the order of sums leaves in float32. Right forwards have up to 6e-6; as
# in tests/models/test_vit.py for big_vision.
PARITY, BIG_VISION_PARITY = 1e-5, 3e-5

# What `of_each` gives, and what the program calls it.
NAIVE = ("last_hidden_state", "pooler_output", "logits")
# Format and file of numbers; a convention that is noticed where it is wrong.
FILES = {
  "big_vision_flexivit_tok": ("big_vision", {"gelu": "exact"}),
  "big_vision_flexivit_gap": ("big_vision", {"gelu": "exact"}),
  "big_vision_flexivit_map": ("big_vision", {"gelu": "exact"}),
  "big_vision_vit_gap_p16": ("big_vision", {"gelu": "exact"}),
  "timm_vit_no_embed_class": ("timm", {"eps": 1e-4}),
  "timm_vit_reg4_layerscale_avg": ("timm", {"image_std": 0.51}),
  "hf_vit": ("hugging_face", {"eps": 1e-5}),
  "timm_naflexvit_factorized": ("naflexvit", {"num_heads": 4}),
  "hf_siglip2_vision": ("siglip2", {"num_heads": 4}),
  "hf_pix2struct_vision": ("pix2struct", {"num_heads": 2}),
}
FLEXIBLE = ("naflexvit", "siglip2", "pix2struct")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
  return tmp_path_factory.mktemp("golden")


def _arrays(name):
  format_ = FILES[name][0]
  if format_ == "big_vision":
    return golden.read_big_vision(name)[0]
  return (golden.read_flexible if format_ in FLEXIBLE else golden.read)(name)[0]


def _load(directory, name, **given):
  if FILES[name][0] == "big_vision":
    path = directory / f"{name}.npz"
    arrays = {f"params/{k}": x for k, x in _arrays(name).items()}
    npz.write(path, arrays)
    return load.load(path, patch_size=golden.read_big_vision(name)[3], **given)
  path = directory / f"{name}.safetensors"
  safetensors.write(path, _arrays(name), {"format": "pt"})
  return load.load(path, **({"num_heads": 3} | given))


def _errors(vit, name):
  """Largest differences to the program's numbers, one for each layout."""
  format_ = FILES[name][0]
  if format_ in FLEXIBLE:
    return [_error(vit, name, layout) for layout in golden.LAYOUTS]
  read = golden.read_big_vision if format_ == "big_vision" else golden.read
  return [golden.error(vit, *read(name)[1:3])]


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


@pytest.mark.parametrize("name", FILES)
def test_equals_its_program(name, directory):
  format_, mutant = FILES[name]
  limit = BIG_VISION_PARITY if format_ == "big_vision" else PARITY
  assert max(_errors(_load(directory, name), name)) < limit
  assert min(_errors(_load(directory, name, **mutant), name)) > limit


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


@pytest.mark.parametrize("name", [n for n, f in FILES.items() if "hf_vit" != n])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_there_and_back_is_exact(name, dtype, directory, tmp_path):
  arrays = {k: x.astype(np.dtype(dtype)) for k, x in _arrays(name).items()}
  format_ = FILES[name][0]
  if format_ == "big_vision":
    read, given, suffix = npz.read, {}, ".npz"
    arrays = {f"params/{k}": x for k, x in arrays.items()}
    npz.write(tmp_path / "theirs.npz", arrays)
  else:
    read, given, suffix = safetensors.read, {"num_heads": 3}, ".safetensors"
    safetensors.write(tmp_path / "theirs.safetensors", arrays, {})
  checkpoint = load.read(tmp_path / f"theirs{suffix}", **given)
  out = tmp_path / ("out.npz" if format_ == "big_vision" else "out")
  assert save.save(checkpoint, out, format_) == []
  file = out if format_ == "big_vision" else out / "model.safetensors"
  again, _ = read(file)
  assert again.keys() == arrays.keys()
  for key, x in arrays.items():
    assert again[key].dtype == x.dtype
    np.testing.assert_array_equal(again[key], x)
  found = load.read(out)
  assert found.model == checkpoint.model
  assert found.spec.checked


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
