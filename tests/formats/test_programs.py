"""Against timm and transformers themselves, where they are installed.

`pip install torch timm transformers` and run this file; without them the
numbers that they gave are in tests/data.
"""

import json

import golden
import jax
import numpy as np
import pytest

from flexivit_jax import pretrained, saving
from flexivit_jax.cli import convert
from flexivit_jax.formats import architecture, parameters
from flexivit_jax.formats import timm as formats_timm
from flexivit_jax.formats.facts import Facts

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 24, 3), np.uint8)
# Orders of sums in float32, of logits of order 1.
TOLERANCE = 1e-5

TINY = dict(
  img_size=(32, 24),
  patch_size=8,
  embed_dim=48,
  depth=3,
  num_heads=4,
  mlp_ratio=2.5,
  num_classes=10,
)
TIMM = {
  "class token": dict(),
  "deit3": dict(no_embed_class=True, init_values=1e-2),
  "registers": dict(reg_tokens=3),
  "registers without positions": dict(reg_tokens=3, no_embed_class=True),
  "registers alone": dict(
    reg_tokens=4, class_token=False, global_pool="avg", no_embed_class=True
  ),
  "average": dict(class_token=False, global_pool="avg"),
  "average, norm before": dict(
    class_token=False, global_pool="avg", fc_norm=False
  ),
  "average beside a class token": dict(global_pool="avg"),
  "attention pooling": dict(class_token=False, global_pool="map"),
  "norm of queries and keys": dict(qk_norm=True),
  "no biases": dict(qkv_bias=False),
  "tanh": dict(act_layer="gelu_tanh"),
  "no head": dict(num_classes=0),
  "norm of the embedding": dict(embed_norm_layer="layernorm"),
}


def _randomize(module):
  """Weights that matter: fresh ones are zero or one in many places."""
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for parameter in module.parameters():
      noise = torch.randn(parameter.shape, generator=generator)
      parameter.add_(0.2 * noise)
  return module.eval()


def _theirs(module, mean, std, images=IMAGES):
  x = (images / 255 - mean) / std
  x = torch.tensor(x, dtype=torch.float32).permute(0, 3, 1, 2)
  with torch.no_grad():
    return module(x)


def _assert_equal(vit, expected, images=IMAGES):
  with jax.default_matmul_precision("highest"):
    got = (vit if vit.model.num_classes else vit.features)(images)
  np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)
  assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize("case", TIMM)
def test_timm_opens_ours_and_we_open_timms(case, tmp_path):
  # DeiT III's own, which expects ImageNet's mean and std.
  name = (
    "deit3_small_patch16_224" if case == "deit3" else "vit_base_patch16_224"
  )
  module = _randomize(timm.create_model(name, **TINY | TIMM[case]))
  cfg = module.pretrained_cfg
  expected = _theirs(module, cfg["mean"], cfg["std"]).numpy()
  directory = tmp_path / "theirs"
  timm.models.save_for_hf(module, directory, safe_serialization=True)
  vit = pretrained.load(directory)
  _assert_equal(vit, expected)
  assert saving.save(vit, tmp_path / "ours", "timm") == []
  again = timm.create_model(f"local-dir:{tmp_path}/ours", pretrained=True)
  again = again.eval()
  np.testing.assert_array_equal(
    _theirs(again, cfg["mean"], cfg["std"]).numpy(), expected
  )
  state = {k: v.numpy() for k, v in module.state_dict().items()}
  assert state.keys() == again.state_dict().keys()
  for name, x in again.state_dict().items():
    np.testing.assert_array_equal(x.numpy(), state[name])


@pytest.mark.slow
def test_no_model_of_timm_is_misread():
  # All that timm builds, without numbers: those that are accepted compute
  # what was read off their names and shapes.
  accepted = 0
  for name in timm.list_models():
    with torch.device("meta"):
      try:
        module = timm.create_model(name)
      except Exception:  # noqa: S112 (of timm's own, some need more packages)
        continue
    # No memory is behind these.
    arrays = {
      key: np.broadcast_to(np.float32(0), tuple(x.shape))
      for key, x in module.state_dict().items()
    }
    if not formats_timm.recognises(arrays):
      continue
    config = {
      "architecture": name,
      "num_features": module.num_features,
      "global_pool": getattr(module, "global_pool", None),
      "pretrained_cfg": dict(module.pretrained_cfg),
    }
    config = json.loads(json.dumps(config, default=str))
    try:
      facts = Facts(name, ("config.json", formats_timm.facts_in(config)))
      ours = formats_timm.to_ours(arrays, facts)
      facts.add("convention", formats_timm.CONVENTION)
      model = architecture.model_of(ours, facts)
      parameters.check(model, ours, name)
    except ValueError:
      continue
    accepted += 1
    block = module.blocks[0]
    assert type(module).__name__ == "VisionTransformer", name
    assert type(block).__name__ == "Block", name
    assert type(block.attn).__name__ == "Attention", name
    assert not getattr(module, "pool_include_prefix", False), name
    assert block.attn.num_heads == model.size.num_heads, name
    assert block.norm1.eps == model.norm_eps, name
    act = type(block.mlp.act).__name__
    assert act == ("GELU" if model.exact_gelu else "GELUTanh"), name
  assert accepted > 100


HF = {
  "exact": dict(),
  "tanh": dict(hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6),
  "no biases": dict(qkv_bias=False),
}


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("case", HF)
def test_transformers_opens_ours_and_we_open_its(case, head, tmp_path):
  config = transformers.ViTConfig(
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=120,
    image_size=(32, 24),
    patch_size=8,
    num_labels=10,
    **HF[case],
  )
  kind = (
    transformers.ViTForImageClassification if head else transformers.ViTModel
  )
  module = _randomize(kind(config))
  pick = (lambda out: out.logits) if head else (lambda out: out.pooler_output)
  expected = pick(_theirs(module, 0.5, 0.5)).numpy()
  module.save_pretrained(tmp_path / "theirs")
  vit = pretrained.load(tmp_path / "theirs")
  _assert_equal(vit, expected)
  assert saving.save(vit, tmp_path / "ours", "hugging_face") == []
  again = kind.from_pretrained(tmp_path / "ours").eval()
  np.testing.assert_allclose(
    pick(_theirs(again, 0.5, 0.5)).numpy(), expected, rtol=0, atol=1e-6
  )
  for name, x in module.state_dict().items():
    np.testing.assert_array_equal(x, again.state_dict()[name])
  processor = json.loads(
    (tmp_path / "ours" / "preprocessor_config.json").read_text()
  )
  assert processor["size"] == {"height": 32, "width": 24}


def test_flexivit_at_one_size_runs_in_timm(tmp_path):
  # big_vision's own logits, given by timm: tests/data has the file.
  numbers = dict(np.load(golden.DATA / "big_vision_flexivit_tok.npz"))
  file = tmp_path / "flexivit.npz"
  np.savez(file, **{k: v for k, v in numbers.items() if "params/" in k})
  convert.main(
    [
      str(file),
      f"{tmp_path}/ours",
      "--format=timm",
      "--patch=30",
      "--image=240",
    ]
  )
  module = timm.create_model(f"local-dir:{tmp_path}/ours", pretrained=True)
  got = _theirs(module.eval(), 0.5, 0.5, numbers["images_uint8"])
  expected = numbers["logits/seqhw=8"]
  np.testing.assert_allclose(got, expected, rtol=0, atol=3e-5)
