"""What config.json and preprocessor_config.json say of SigLIP2, Pix2Struct."""

import json

import golden
import pytest

from flexivit_jax.checkpoints import load, safetensors
from flexivit_jax.checkpoints.formats import siglip2

SIGLIP2 = {
  "model_type": "siglip2_vision_model",
  "hidden_size": 48,
  "intermediate_size": 96,
  "num_hidden_layers": 2,
  "num_attention_heads": 3,
  "patch_size": 8,
}
PIX2STRUCT = {
  "model_type": "pix2struct_vision_model",
  "hidden_size": 48,
  "d_ff": 96,
  "d_kv": 16,
  "num_hidden_layers": 2,
  "num_attention_heads": 3,
}
CASES = {
  "siglip2": ("hf_siglip2_vision", SIGLIP2),
  "pix2struct": ("hf_pix2struct_vision", PIX2STRUCT),
}
of_both = pytest.mark.parametrize("case", CASES)


def _file(tmp_path, case, preprocessor=None, change=None, **changes):
  name, config = CASES[case]
  arrays, _, _ = golden.read_flexible(name)
  file = tmp_path / "model.safetensors"
  safetensors.write(file, change(arrays) if change else arrays, {})
  file.with_name("config.json").write_text(json.dumps(config | changes))
  if preprocessor is not None:
    path = file.with_name("preprocessor_config.json")
    path.write_text(json.dumps(preprocessor))
  return file


@of_both
def test_config_json_says_what_arrays_do_not(case, tmp_path):
  file = _file(tmp_path, case)
  model = load.read(file).model
  assert model.size.num_heads == 3
  assert not model.exact_gelu
  assert model.norm_eps == 1e-6
  changes = {"layer_norm_eps": 1e-5, "hidden_act": "gelu"}
  model = load.read(_file(tmp_path, case, dense_act_fn="gelu", **changes)).model
  assert model.exact_gelu
  assert model.norm_eps == 1e-5


@of_both
def test_a_whole_models_config_json_has_it_inside(case, tmp_path):
  file = _file(tmp_path, case)
  alone = load.read(file).model
  whole = {"model_type": case, "vision_config": CASES[case][1]}
  file.with_name("config.json").write_text(json.dumps(whole))
  assert load.read(file).model == alone


@pytest.mark.parametrize(
  ("case", "changes", "text"),
  [
    (
      "siglip2",
      {"model_type": "siglip_vision_model"},
      "the config.json beside it cannot be understood: it is of a model of "
      "type 'siglip_vision_model', and only 'siglip2_vision_model' and "
      "'siglip2' are known here",
    ),
    (
      "siglip2",
      {"patch_size": 16},
      "its patches of 192 numbers are no 16x16 pixels of 3 channels: say "
      "otherwise in a config.json beside it",
    ),
    (
      "pix2struct",
      {"d_ff": 64},
      "mlp_dim is 64 (config.json), but its arrays have 96",
    ),
    (
      "pix2struct",
      {"num_attention_heads": 5},
      "num_heads is 5 (config.json), of which the width 48 is no multiple",
    ),
  ],
)
def test_a_config_json_of_other_arrays_is_refused(
  case, changes, text, tmp_path
):
  file = _file(tmp_path, case, **changes)
  with pytest.raises(ValueError) as caught:
    load.read(file)
  assert str(caught.value) == f"{file}: {text}"


def test_pixels_and_patches_are_those_of_the_preprocessor(tmp_path):
  said = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5]}
  model = load.read(_file(tmp_path, "siglip2", said)).model
  assert model.image_mean == (0.1, 0.2, 0.3)
  size = {"patch_size": {"height": 4, "width": 16}, "do_normalize": True}
  read = load.read(_file(tmp_path, "pix2struct", size))
  assert read.model.kernel_hw == read.spec.patch_size == (4, 16)
  file = _file(tmp_path, "pix2struct", {"do_normalize": False})
  with pytest.raises(ValueError) as caught:
    load.read(file)
  assert str(caught.value) == (
    f"{file}: the preprocessor_config.json beside it cannot be understood: "
    "do_normalize is false, and only standardised pixels are known here"
  )


def test_a_patch_embedding_that_is_a_convolution_is_refused(tmp_path):
  def convolved(arrays):
    kernel = arrays[siglip2.KERNEL].reshape(48, 8, 8, 3)
    return arrays | {siglip2.KERNEL: kernel.transpose(0, 3, 1, 2).copy()}

  file = _file(tmp_path, "siglip2", change=convolved)
  with pytest.raises(ValueError) as caught:
    load.read(file)
  assert str(caught.value) == (
    f"{file}: its patch embedding is a convolution, as in CLIP, SigLIP and "
    "SigLIP2 of one size: only SigLIP2 NaFlex is known here"
  )


@of_both
@pytest.mark.parametrize("part", ["mlp", "embeddings"])
def test_arrays_that_are_missing_are_missed(case, part, tmp_path):
  def without(arrays):
    gone = {
      "mlp": ("layers.0.mlp.fc1.weight", "layer.0.mlp.wi_0.weight"),
      "embeddings": ("position_embedding.weight", "row_embedder.weight"),
    }[part]
    return {k: x for k, x in arrays.items() if not k.endswith(gone)}

  file = _file(tmp_path, case, change=without)
  with pytest.raises(
    ValueError, match=r"is missing: rank 2|neither timm's nor Hugging Face's"
  ):
    load.read(file)
