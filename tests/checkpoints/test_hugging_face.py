import json

import golden
import made_up
import numpy as np
import pytest

from flexivit_jax.checkpoints import load, safetensors, save
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid


@pytest.fixture(scope="module")
def arrays():
  return golden.read("hf_vit")[0]


@pytest.fixture
def file(arrays, tmp_path):
  path = tmp_path / "model.safetensors"
  safetensors.write(path, arrays, {"format": "pt"})
  return path


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


def test_a_class_token_without_a_position_gets_zeros(tmp_path):
  checkpoint = made_up.checkpoint(_model(prefix_position=False))
  save.save(checkpoint, tmp_path / "out", "hugging_face")
  again = load.read(tmp_path / "out")
  assert not again.arrays.pop("cls_pos_embedding").any()
  for name, x in checkpoint.arrays.items():
    np.testing.assert_array_equal(again.arrays[name], x)
  assert again.arrays.keys() == checkpoint.arrays.keys()


def test_config_json_of_another_kind_of_model_is_refused(file):
  config = file.with_name("config.json")
  config.write_text(json.dumps({"model_type": "deit"}))
  with pytest.raises(ValueError) as caught:
    load.read(file)
  assert str(caught.value) == (
    f"{file}: the config.json beside it cannot be understood: it is of a model "
    "of type 'deit', and only 'vit' is known here"
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
