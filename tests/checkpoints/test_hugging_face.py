import json

import golden
import made_up
import numpy as np
import pytest

from flexivit_jax.checkpoints import load, safetensors, save
from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid, waves

# What the order of sums leaves in float32: a right forward has 1.7e-6.
PARITY = 1e-5


@pytest.fixture(scope="module")
def arrays():
  return golden.read("hf_vit")[0]


@pytest.fixture
def file(arrays, tmp_path):
  path = tmp_path / "model.safetensors"
  safetensors.write(path, arrays, {"format": "pt"})
  return path


def _error(path, **given):
  _, images, logits = golden.read("hf_vit")
  return golden.error(
    load.load(path, **({"num_heads": 3} | given)), images, logits
  )


def test_equals_transformers(file):
  assert _error(file) < PARITY


@pytest.mark.parametrize("mutant", [{"eps": 1e-5}, {"gelu": "tanh"}], ids=str)
def test_wrong_conventions_are_noticed(file, mutant):
  assert _error(file, **mutant) > PARITY


def test_the_convention_is_its_own(file):
  model = load.read(file, num_heads=3).model
  assert model.norm_eps == 1e-12
  assert model.exact_gelu
  assert model.prefix_position
  assert model.pool == pooling.ClassToken()


# Parts of a name in memory, and on the hub.
STYLES = (
  ("vit.layers.", "vit.encoder.layer."),
  (".attention.q_proj.", ".attention.attention.query."),
  (".attention.k_proj.", ".attention.attention.key."),
  (".attention.v_proj.", ".attention.attention.value."),
  (".attention.o_proj.", ".attention.output.dense."),
  (".mlp.fc1.", ".intermediate.dense."),
  (".mlp.fc2.", ".output.dense."),
)


def _on_hub(arrays):
  renamed = {}
  for name, x in arrays.items():
    for old, new in STYLES:
      name = name.replace(old, new)
    renamed[name] = x
  return renamed


def test_both_styles_of_names_give_the_same(arrays, file, tmp_path):
  hub = _on_hub(arrays)
  attention = "vit.encoder.layer.1.attention"
  assert {
    f"{attention}.attention.query.weight",
    f"{attention}.output.dense.bias",
    "vit.encoder.layer.0.intermediate.dense.weight",
    "vit.encoder.layer.0.output.dense.weight",
  } < hub.keys()
  other = tmp_path / "hub.safetensors"
  safetensors.write(other, hub, {})
  a, b = (load.read(x, num_heads=3) for x in (file, other))
  assert a.model == b.model
  assert a.arrays.keys() == b.arrays.keys()
  for name, x in a.arrays.items():
    np.testing.assert_array_equal(b.arrays[name], x)


def test_there_and_back_is_exact(arrays, file, tmp_path):
  checkpoint = load.read(file, num_heads=3)
  assert save.save(checkpoint, tmp_path / "out", "hugging_face") == []
  again, _ = safetensors.read(tmp_path / "out" / "model.safetensors")
  hub = _on_hub(arrays)
  assert again.keys() == hub.keys()
  for name, x in hub.items():
    np.testing.assert_array_equal(again[name], x)


def _model(**changes):
  fields = dict(
    size=encoder.Size(24, 2, 60, 3),
    position=learned_grid.LearnedGrid((3, 4)),
    pool=pooling.ClassToken(),
    kernel_hw=(8, 6),
    num_classes=3,
    prefix_position=True,
    exact_gelu=True,
    norm_eps=1e-12,
  )
  return vit.ViT(**(fields | changes))


MODELS = {
  "as transformers makes it": dict(),
  "tanh, eps, pixels": dict(
    exact_gelu=False, norm_eps=1e-6, image_mean=(0.1, 0.2, 0.3)
  ),
  "no biases": dict(qkv_bias=False),
  "no head": dict(num_classes=0),
  "a pooler, no head": dict(num_classes=0, representation=True),
  "stacked": dict(scan=True),
  "one channel": dict(channels=1),
}


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("noted", [True, False])
def test_ours_there_and_back_is_exact(case, noted, tmp_path):
  model = _model(**MODELS[case])
  classes = ("cat", "dog", "eel") if model.num_classes else ()
  checkpoint = made_up.checkpoint(model, classes)
  save.save(checkpoint, tmp_path / "out", "hugging_face")
  file = tmp_path / "out" / "model.safetensors"
  if not noted:  # the JSON files alone, as transformers' own
    arrays, _ = safetensors.read(file)
    safetensors.write(file, arrays, {})
  again = load.read(file)
  arrays = checkpoint.arrays
  if model.scan:
    arrays = parameters.unstack(arrays, model.size.depth)
    model = model.clone(scan=False)
  assert again.model == model
  assert again.spec.classes == classes
  assert again.arrays.keys() == arrays.keys()
  for name, x in arrays.items():
    np.testing.assert_array_equal(again.arrays[name], x)


def test_a_class_token_without_a_position_gets_zeros(tmp_path):
  checkpoint = made_up.checkpoint(_model(prefix_position=False))
  save.save(checkpoint, tmp_path / "out", "hugging_face")
  again = load.read(tmp_path / "out")
  assert not again.arrays.pop("cls_pos_embedding").any()
  for name, x in checkpoint.arrays.items():
    np.testing.assert_array_equal(again.arrays[name], x)
  assert again.arrays.keys() == checkpoint.arrays.keys()


@pytest.mark.parametrize(
  ("changes", "lacking"),
  [
    (dict(pool=pooling.Gap()), "pooling but by its class token"),
    (dict(pool=pooling.Map()), "pooling but by its class token"),
    (dict(registers=2), "registers"),
    (
      dict(layer_scale=1e-5),
      "layer_scale (--fold_layer_scale multiplies it into its layers)",
    ),
    (dict(qk_norm=True), "qk_norm"),
    (dict(embedding_norm=True), "embedding_norm"),
    (dict(norm_after_pool=True), "norm_after_pool"),
    (dict(representation=True), "representation before a head"),
    (dict(position=waves.SinCos2D()), "positions without a table"),
    (dict(proj_bias=False), "proj_bias=False"),
    (dict(gated_mlp=True), "gated_mlp"),
  ],
)
def test_what_it_has_no_place_for_is_refused(changes, lacking, tmp_path):
  model = _model(**({"prefix_position": False} | changes))
  with pytest.raises(ValueError) as caught:
    save.save(made_up.checkpoint(model), tmp_path / "out", "hugging_face")
  assert str(caught.value) == f"Hugging Face's ViT has no {lacking}"
  assert list(tmp_path.iterdir()) == []


def test_config_json_of_another_kind_of_model_is_refused(file):
  config = file.with_name("config.json")
  config.write_text(json.dumps({"model_type": "deit"}))
  with pytest.raises(ValueError) as caught:
    load.read(file)
  assert str(caught.value) == (
    f"{file}: the config.json beside it cannot be understood: it is of a model "
    "of type 'deit', and only 'vit' is known here"
  )


def test_another_activation_is_refused(file):
  config = file.with_name("config.json")
  config.write_text(
    json.dumps(
      {"model_type": "vit", "num_attention_heads": 3, "hidden_act": "relu"}
    )
  )
  with pytest.raises(ValueError) as caught:
    load.read(file)
  assert str(caught.value) == (
    f"{file}: gelu is 'relu' (config.json): only 'tanh' and 'exact' are known "
    "here"
  )


CONFIG = {"model_type": "vit", "num_attention_heads": 3}


def _beside(file, config, preprocessor=None):
  file.with_name("config.json").write_text(json.dumps(CONFIG | config))
  if preprocessor is not None:
    path = file.with_name("preprocessor_config.json")
    path.write_text(json.dumps(preprocessor))


@pytest.mark.parametrize(
  ("config", "text"),
  [
    (
      {"num_hidden_layers": 3},
      "depth is 3 (config.json), but its arrays have 2",
    ),
    ({"hidden_size": 64}, "width is 64 (config.json), but its arrays have 48"),
    (
      {"intermediate_size": 64},
      "mlp_dim is 64 (config.json), but its arrays have 96",
    ),
    ({"num_channels": 1}, "channels is 1 (config.json), but its arrays have 3"),
    (
      {"qkv_bias": False},
      "qkv_bias is False (config.json), but its arrays have True",
    ),
    (
      {"patch_size": 16},
      "kernel_hw is (16, 16) (config.json), but its arrays have (8, 8)",
    ),
  ],
)
def test_a_config_json_of_other_arrays_is_refused(file, config, text):
  _beside(file, config)
  with pytest.raises(ValueError) as caught:
    load.read(file)
  assert str(caught.value) == f"{file}: {text}"


def test_pixels_are_those_of_the_preprocessor(file):
  said = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5]}
  _beside(file, {}, said)
  read = load.read(file)
  assert read.model.image_mean == (0.1, 0.2, 0.3)
  assert read.spec.origins["image_mean"] == "preprocessor_config.json"
  _beside(file, {}, said | {"do_normalize": False})
  model = load.read(file).model
  assert (model.image_mean, model.image_std) == ((0.0,), (1.0,))


@pytest.mark.parametrize(
  "said", [{"do_rescale": False}, {"rescale_factor": 1 / 127.5}]
)
def test_pixels_that_are_scaled_otherwise_are_refused(file, said):
  _beside(file, {}, said)
  with pytest.raises(ValueError, match=r"only 1 / 255 is known here"):
    load.read(file)


def test_another_pooler_is_refused(file, tmp_path):
  model = _model(num_classes=0, representation=True)
  save.save(made_up.checkpoint(model), tmp_path / "out", "hugging_face")
  config = tmp_path / "out" / "config.json"
  config.write_text(config.read_text().replace('"tanh"', '"relu"'))
  file = tmp_path / "out" / "model.safetensors"
  with pytest.raises(ValueError) as caught:
    load.read(file)
  assert str(caught.value) == (
    f"{file}: pooler_act is 'relu' (config.json), but only tanh is known here"
  )


def test_a_directory_without_the_one_file_says_what_it_holds(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps(CONFIG))
  (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
  with pytest.raises(ValueError) as caught:
    load.read(tmp_path)
  assert str(caught.value) == (
    f"{tmp_path}: no run (config.json and checkpoints/), no model (model.json) "
    "and no model.safetensors there; it holds config.json, "
    "model-00001-of-00002.safetensors"
  )
