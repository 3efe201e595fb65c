"""Against timm and transformers themselves, where they are installed.

`pip install torch timm transformers` and run this file; without them the
numbers that they gave are in tests/data.
"""

import json

import golden
import jax
import numpy as np
import pytest

from flexivit_jax.checkpoints import load, save
from flexivit_jax.checkpoints.formats import infer, parameters, timm_arguments
from flexivit_jax.checkpoints.formats import timm as timm_lib
from flexivit_jax.checkpoints.formats.metadata import Facts
from flexivit_jax.cli import convert

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
  "deit3": dict(no_embed_class=True, init_values=1e-2),
  "registers without positions": dict(reg_tokens=3, no_embed_class=True),
  "average, norm before": dict(
    class_token=False, global_pool="avg", fc_norm=False
  ),
  "average beside a class token": dict(global_pool="avg"),
  "attention pooling": dict(class_token=False, global_pool="map"),
  "norm of queries and keys": dict(qk_norm=True),
  "no biases": dict(qkv_bias=False),
  "tanh": dict(act_layer="gelu_tanh"),
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
  vit = load.load(directory)
  _assert_equal(vit, expected)
  assert save.save(vit, tmp_path / "ours", "timm") == []
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
    if not timm_lib.recognises(arrays):
      continue
    config = {
      "architecture": name,
      "num_features": module.num_features,
      "global_pool": getattr(module, "global_pool", None),
      "pretrained_cfg": dict(module.pretrained_cfg),
    }
    config = json.loads(json.dumps(config, default=str))
    try:
      facts = Facts(name, ("config.json", timm_arguments.facts_in(config)))
      ours = timm_lib.to_ours(arrays, facts)
      facts.add("convention", timm_lib.CONVENTION)
      model = infer.model_of(ours, facts)
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
  vit = load.load(tmp_path / "theirs")
  _assert_equal(vit, expected)
  assert save.save(vit, tmp_path / "ours", "hugging_face") == []
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


# Three sizes of whole patches; the tables of positions are 3x4 and 6x6.
SIZES = ((32, 24), (16, 56), (64, 64))
FLEXIBLE = [
  np.random.default_rng(1).integers(0, 256, (*hw, 3), np.uint8) for hw in SIZES
]
NAFLEX_TINY = dict(
  patch_size=8,
  embed_dim=48,
  depth=3,
  num_heads=4,
  mlp_ratio=2.5,
  num_classes=10,
  pos_embed_grid_size=(3, 4),
  pos_embed_interp_mode="bilinear",
)
NAFLEX = {
  "factorised": dict(pos_embed="factorized"),
  "no positions": dict(pos_embed="none"),
  "bicubic on the table's grid": dict(
    pos_embed_interp_mode="bicubic", pos_embed_grid_size=(4, 3)
  ),
  "class token, norm after": dict(class_token=True, global_pool="token"),
  "average beside a class token": dict(class_token=True, reg_tokens=0),
  "norm after attention pooling": dict(global_pool="map"),
  "no biases": dict(qkv_bias=False, proj_bias=False),
  "norm of queries and keys": dict(qk_norm=True, init_values=None),
  "convolution": dict(embed_proj_type="conv"),
}


def _naflex(images, patch_hw):
  """What timm's collator makes of images: padded patches, and where."""
  tokens = golden.one_per_row(images, patch_hw)
  pixels = np.asarray(tokens.patches, np.float32) / 127.5 - 1
  return {
    "patches": torch.tensor(pixels),
    "patch_coord": torch.tensor(np.asarray(tokens.coords), dtype=torch.long),
    "patch_valid": torch.tensor(np.asarray(tokens.segments) > 0),
  }


def _flexible(vit, images, layout):
  tokens = golden.LAYOUTS[layout](images, vit.spec.patch_size)
  return golden.of_each(vit.model, vit.params, tokens)


@pytest.mark.parametrize("case", NAFLEX)
def test_naflexvit_opens_ours_and_we_open_its(case, tmp_path):
  arguments = NAFLEX_TINY | NAFLEX[case]
  module = timm.create_model("naflexvit_base_patch16_gap", **arguments)
  module = _randomize(module)
  directory = tmp_path / "theirs"
  timm.models.save_for_hf(module, directory, safe_serialization=True)
  bicubic = arguments["pos_embed_interp_mode"] == "bicubic"
  given = {"posemb_resize": "bilinear"} if bicubic else {}
  vit = load.load(directory, **given)
  # One size at a time, as any ViT.
  for image in FLEXIBLE[: 1 if bicubic else 3]:
    expected = _theirs(module, 0.5, 0.5, image[None]).numpy()
    _assert_equal(vit, expected, image[None])
  if not bicubic and case != "convolution":
    with torch.no_grad():
      expected = module(_naflex(FLEXIBLE, vit.spec.patch_size)).numpy()
    for layout in golden.LAYOUTS:
      found = _flexible(vit, FLEXIBLE, layout)
      got = [pooled if x is None else x for _, pooled, x in found]
      np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)
  assert save.save(vit, tmp_path / "ours", "naflexvit") == []
  again = timm.create_model(f"local-dir:{tmp_path}/ours", pretrained=True)
  for image in FLEXIBLE[: 1 if bicubic else 3]:
    np.testing.assert_allclose(
      _theirs(again.eval(), 0.5, 0.5, image[None]),
      _theirs(module, 0.5, 0.5, image[None]),
      rtol=0,
      atol=1e-6,
    )


@pytest.mark.parametrize("head", [True, False])
def test_siglip2_opens_ours_and_we_open_its(head, tmp_path):
  config = transformers.Siglip2VisionConfig(
    hidden_size=48,
    intermediate_size=120,
    num_hidden_layers=3,
    num_attention_heads=4,
    patch_size=8,
    num_patches=36,
    vision_use_head=head,
  )
  module = _randomize(transformers.Siglip2VisionModel(config))
  module.save_pretrained(tmp_path / "theirs")
  processor = transformers.Siglip2ImageProcessor(patch_size=8)
  processor.save_pretrained(tmp_path / "theirs")
  batch = _naflex(FLEXIBLE, (8, 8))

  def numbers(module):
    with torch.no_grad():
      return module(
        pixel_values=batch["patches"],
        pixel_attention_mask=batch["patch_valid"].long(),
        spatial_shapes=torch.tensor([[h // 8, w // 8] for h, w in SIZES]),
      )

  expected = numbers(module)
  vit = load.load(tmp_path / "theirs")
  for layout in golden.LAYOUTS:
    for i, found in enumerate(_flexible(vit, FLEXIBLE, layout)):
      encoded, pooled, _ = found
      wanted = expected.last_hidden_state[i, : len(encoded)].numpy()
      _assert_close(encoded, wanted)
      if head:
        _assert_close(pooled, expected.pooler_output[i].numpy())
  assert save.save(vit, tmp_path / "ours", "siglip2") == []
  again = transformers.Siglip2VisionModel.from_pretrained(tmp_path / "ours")
  for name, x in module.state_dict().items():
    np.testing.assert_array_equal(x, again.state_dict()[name])
  last = numbers(again.eval()).last_hidden_state
  valid = batch["patch_valid"]
  _assert_close(last[valid].numpy(), expected.last_hidden_state[valid].numpy())


def _assert_close(got, expected):
  """Within rounding of the largest number."""
  scale = np.abs(expected).max()
  assert scale > 0.1
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("act", ["gelu_new", "gelu"])
def test_pix2struct_opens_ours_and_we_open_its(act, tmp_path):
  config = transformers.Pix2StructVisionConfig(
    hidden_size=48,
    d_ff=120,
    d_kv=12,
    num_hidden_layers=3,
    num_attention_heads=4,
    patch_embed_hidden_size=192,
    seq_len=20,
    dense_act_fn=act,
  )
  module = _randomize(transformers.Pix2StructVisionModel(config))
  module.save_pretrained(tmp_path / "theirs")
  transformers.Pix2StructImageProcessor(
    patch_size={"height": 8, "width": 8}
  ).save_pretrained(tmp_path / "theirs")
  vit = load.load(tmp_path / "theirs")
  # Each image as large as it is: 12, 14 and 64 patches, standardised by the
  # program itself, whose std is of n - 1 numbers: a factor that is undone.
  flat, expected = [], []
  processor = transformers.Pix2StructImageProcessor(
    patch_size={"height": 8, "width": 8}
  )
  for image in FLEXIBLE:
    count = image.size // 192
    made = processor(image, return_tensors="pt", max_patches=count)
    patches = made["flattened_patches"]
    assert (patches[0, :, :2].min(), len(patches[0])) == (1, count)
    patches[:, :, 2:] *= np.sqrt(image.size / (image.size - 1))
    flat.append(patches)
    with torch.no_grad():
      out = module(flattened_patches=patches)
    expected.append(out.last_hidden_state[0].numpy())
  for layout in golden.LAYOUTS:
    found = _flexible(vit, FLEXIBLE, layout)
    for (encoded, pooled, _), wanted in zip(found, expected, strict=True):
      _assert_close(encoded, wanted)
      _assert_close(pooled, wanted.mean(axis=0))
  assert save.save(vit, tmp_path / "ours", "pix2struct") == []
  again = transformers.Pix2StructVisionModel.from_pretrained(tmp_path / "ours")
  for name, x in module.state_dict().items():
    np.testing.assert_array_equal(x, again.state_dict()[name])
  with torch.no_grad():
    out = again.eval()(flattened_patches=flat[0])
  _assert_close(out.last_hidden_state[0].numpy(), expected[0])
