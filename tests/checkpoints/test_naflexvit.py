import json

import made_up
import numpy as np
import pytest

from flexivit_jax.checkpoints import load, safetensors, save
from flexivit_jax.checkpoints.formats import naflexvit
from flexivit_jax.nn import pooling
from flexivit_jax.nn.positions import learned_grid, row_column


def _facts(name="naflexvit_base_patch16_gap", pool="avg", **arguments):
  config = {
    "architecture": name,
    "global_pool": pool,
    "model_args": arguments,
    "pretrained_cfg": {"mean": [0.5], "std": [0.5]},
  }
  return naflexvit.facts_in(config)


# As timm 1.0.31 builds its models (test_programs.py compares).
@pytest.mark.parametrize(
  ("name", "gelu", "resize", "antialias"),
  [
    ("naflexvit_base_patch16_gap", None, "bicubic", None),
    (
      "naflexvit_base_patch16_par_gap",
      None,
      "bicubic to a square of the longer side",
      None,
    ),
    ("naflexvit_base_patch16_siglip", "tanh", "bilinear", None),
    (
      "naflexvit_base_patch16_radio_v3",
      None,
      "bilinear to a square of the longer side",
      False,
    ),
  ],
)
def test_names_say_how_a_model_computes(name, gelu, resize, antialias):
  facts = _facts(name)
  assert facts["gelu"] == gelu
  assert facts["posemb_resize"] == resize
  assert facts["posemb_antialias"] == antialias


@pytest.mark.parametrize(
  ("arguments", "expected"),
  [
    ({"pos_embed_interp_mode": "bilinear"}, "bilinear"),
    ({"pos_embed": "factorized"}, "bilinear"),
    (
      {"pos_embed": "factorized", "pos_embed_align_corners": True},
      "bilinear",
    ),
    (
      {"pos_embed": "factorized", "pos_embed_ar_preserving": True},
      "bilinear to a square of the longer side",
    ),
    ({"pos_embed_align_corners": True}, "bicubic between corners"),
  ],
)
def test_arguments_say_how_positions_are_resized(arguments, expected):
  assert _facts(**arguments)["posemb_resize"] == expected


@pytest.mark.parametrize(
  ("arguments", "text"),
  [
    ({"rope_type": "axial"}, "rope_type is 'axial', which no ViT here has"),
    (
      {"patchify_channels_last": False},
      "patchify_channels_last is False, which no ViT here has",
    ),
    (
      {"num_heads": 4, "attn_pool_num_heads": 2},
      "attn_pool_num_heads is 2, and num_heads 4: a ViT here has as many in "
      "its blocks and its pool",
    ),
    ({"frobnicate": 1}, "frobnicate is 1, which is not understood here"),
  ],
)
def test_arguments_of_other_models_are_refused(arguments, text):
  with pytest.raises(ValueError) as caught:
    _facts(**arguments)
  assert str(caught.value).startswith(text)


def test_another_model_built_as_a_naflexvit_is_refused():
  with pytest.raises(ValueError) as caught:
    _facts("eva02_base_patch14_224")
  assert str(caught.value) == (
    "it is of 'eva02_base_patch14_224' built as a NaFlexVit, and only models "
    "named naflexvit_... are known here"
  )


def _file(tmp_path, model=None, **arguments):
  """As timm would save it, with other arguments."""
  model = model or made_up.tiny(exact_gelu=True)
  save.save(made_up.checkpoint(model), tmp_path / "out", "naflexvit")
  directory = tmp_path / "out"
  (directory / "manifest.sha256").unlink()
  file = directory / "config.json"
  config = json.loads(file.read_text())
  config["model_args"] |= arguments
  file.write_text(json.dumps(config))
  arrays, _ = safetensors.read(directory / "model.safetensors")
  safetensors.write(directory / "model.safetensors", arrays, {})
  return directory


def test_bicubic_positions_are_refused_with_the_way_out(tmp_path):
  path = _file(tmp_path, pos_embed_interp_mode="bicubic")
  with pytest.raises(ValueError) as caught:
    load.read(path)
  assert str(caught.value) == (
    f"{path}: positions are resized bicubic (config.json), and only bilinear "
    "is known here: posemb_resize='bilinear' (--posemb_resize) takes it for "
    "that, which is right on the table's own grid, if nowhere else"
  )
  model = load.read(path, posemb_resize="bilinear").model
  assert model.position == learned_grid.LearnedGrid((3, 3))


def test_a_file_alone_is_taken_for_timms_defaults(tmp_path):
  file = _file(tmp_path) / "model.safetensors"
  file.with_name("config.json").unlink()
  with pytest.raises(ValueError) as caught:
    load.read(file, num_heads=2)
  assert "are resized bicubic (the default of timm's NaFlexVit)" in str(
    caught.value
  )
  model = made_up.tiny(
    exact_gelu=True,
    position=row_column.RowColumn((3, 5), read="interpolated", antialias=False),
  )
  (tmp_path / "other").mkdir()
  file = _file(tmp_path / "other", model) / "model.safetensors"
  file.with_name("config.json").unlink()
  assert load.read(file, num_heads=2).model == model


def test_the_grid_is_the_tables(tmp_path):
  model = made_up.tiny(
    exact_gelu=True, position=learned_grid.LearnedGrid((2, 6))
  )
  path = _file(tmp_path, model)
  assert load.read(path).model == model
  with pytest.raises(ValueError) as caught:
    load.read(path, posemb=(3, 4))
  assert str(caught.value) == (
    f"{path}: posemb is (3, 4) (given), but its table has 2x6"
  )


def test_a_convolution_is_read_too(tmp_path):
  model = made_up.tiny(exact_gelu=True, pool=pooling.Map(), kernel_hw=(4, 2))
  path = _file(tmp_path, model)
  linear = load.read(path)
  arrays, _ = safetensors.read(path / "model.safetensors")
  kernel = arrays["embeds.proj.weight"].reshape(8, 4, 2, 3)
  arrays["embeds.proj.weight"] = kernel.transpose(0, 3, 1, 2).copy()
  safetensors.write(path / "model.safetensors", arrays, {})
  convolved = load.read(path)
  assert convolved.model == linear.model == model
  for name, x in linear.arrays.items():
    np.testing.assert_array_equal(convolved.arrays[name], x)


@pytest.mark.parametrize(
  ("arguments", "text"),
  [
    (
      {"patch_size": 8},
      "its patches of 48 numbers are no 8x8 pixels of 3 channels: say "
      "otherwise in a config.json beside it",
    ),
  ],
)
def test_patches_of_another_size_are_refused(arguments, text, tmp_path):
  path = _file(tmp_path, **arguments)
  with pytest.raises(ValueError) as caught:
    load.read(path)
  assert str(caught.value) == f"{path}: {text}"
