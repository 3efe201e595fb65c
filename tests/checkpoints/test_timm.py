import dataclasses
import json

import golden
import made_up
import numpy as np
import pytest

from flexivit_jax.checkpoints import load, safetensors
from flexivit_jax.checkpoints.formats import (
  infer,
  parameters,
  timm,
  timm_arguments,
)
from flexivit_jax.checkpoints.formats.metadata import Facts
from flexivit_jax.models import sizes, vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid

GOLDEN = ("timm_vit_no_embed_class", "timm_vit_reg4_layerscale_avg")

# What the order of sums leaves in float32: a right forward has 2.4e-6.
PARITY = 1e-5


@pytest.fixture(scope="module", params=GOLDEN)
def file(request, tmp_path_factory):
  """A file as timm saves it, its arrays, images and timm's logits."""
  arrays, images, logits = golden.read(request.param)
  path = tmp_path_factory.mktemp("timm") / "model.safetensors"
  safetensors.write(path, arrays, {"format": "pt"})
  return path, arrays, images, logits


def test_wrong_names_are_noticed(file):
  # Transforms that give the right shapes, and other numbers.
  path, arrays, images, logits = file
  for name in ("attn.qkv", "attn.proj"):
    wrong = dict(arrays)
    x = wrong[f"blocks.1.{name}.weight"]
    wrong[f"blocks.1.{name}.weight"] = np.roll(x, len(x) // 3, axis=0)
    other = path.with_name(f"{name}.safetensors")
    safetensors.write(other, wrong, {})
    model = load.load(other, num_heads=3)
    assert golden.error(model, images, logits) > PARITY


def test_heads_that_nobody_knows_are_asked_for(file):
  path = file[0]
  with pytest.raises(ValueError) as caught:
    load.load(path)
  assert str(caught.value) == (
    f"{path} does not say num_heads (attention heads), and neither does a "
    "config.json beside it: give num_heads= to load, --num_heads to a command"
  )
  with pytest.raises(ValueError) as caught:
    load.load(path, num_heads=5)
  assert str(caught.value) == (
    f"{path}: num_heads is 5 (given), of which the width 48 is no multiple"
  )


def _model(**changes):
  fields = dict(
    size=encoder.Size(24, 2, 60, 3),
    position=learned_grid.LearnedGrid((3, 4)),
    pool=pooling.ClassToken(),
    kernel_hw=(8, 6),
    num_classes=5,
    exact_gelu=True,
  )
  return vit.ViT(**(fields | changes))


def test_config_json_says_all_that_timm_needs():
  model = _model(
    registers=2, layer_scale=1e-5, pool=pooling.Gap(), norm_after_pool=True
  )
  config = timm.config(model, ("a", "b", "c", "d", "e"))
  assert config["architecture"] == "vit_base_patch16_224"
  assert config["label_names"] == ["a", "b", "c", "d", "e"]
  assert config["model_args"] == {
    "img_size": [24, 24],
    "patch_size": [8, 6],
    "in_chans": 3,
    "num_classes": 5,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "mlp_ratio": 2.5,
    "qkv_bias": True,
    "qk_norm": False,
    "proj_bias": True,
    "init_values": 1e-5,
    "class_token": False,
    "no_embed_class": True,
    "reg_tokens": 2,
    "global_pool": "avg",
    "fc_norm": True,
    "act_layer": "gelu",
  }
  assert timm.config(_model(size=sizes.SIZES["L"]))["architecture"] == (
    "vit_large_patch16_224"
  )


@pytest.mark.parametrize("name", sizes.SIZES)
def test_the_mlp_ratio_gives_the_hidden_width(name):
  # timm takes int(embed_dim * mlp_ratio).
  size = sizes.SIZES[name]
  args = timm.config(_model(size=size))["model_args"]
  assert int(size.width * args["mlp_ratio"]) == size.mlp_dim
  odd = dataclasses.replace(size, mlp_dim=3 * size.width // 7)
  args = timm.config(_model(size=odd))["model_args"]
  assert int(size.width * args["mlp_ratio"]) == odd.mlp_dim


# What timm 1.0.31 builds under these names, by introspection.
@pytest.mark.parametrize(
  ("name", "facts"),
  [
    ("vit_base_patch16_224", {}),
    ("vit_base_patch32_siglip_256", {"gelu": "tanh"}),
    ("vit_giantopt_patch16_siglip_384", {"gelu": "tanh"}),
    ("vit_large_patch16_siglip_384", {}),
    ("vit_large_patch16_siglip_512", {"gelu": "tanh"}),
    ("vit_so400m_patch14_siglip_224", {}),
    ("vit_so400m_patch16_siglip_256", {"gelu": "tanh"}),
    ("vit_base_patch16_clip_224", {"eps": 1e-5}),
    (
      "vit_base_patch16_clip_quickgelu_224",
      {"eps": 1e-5, "gelu": "quick_gelu"},
    ),
    ("vit_base_patch14_reg4_dinov2", {}),
  ],
)
def test_names_say_what_their_models_compute(name, facts):
  found = timm_arguments.facts_in({"architecture": name})
  assert {k: found[k] for k in ("gelu", "eps") if k in found} == facts


def _file(tmp_path, arrays, config=None):
  path = tmp_path / "model.safetensors"
  safetensors.write(path, arrays, {})
  if config is not None:
    (tmp_path / "config.json").write_text(json.dumps(config))
  return path


def test_config_json_wins_over_widths_and_convention(tmp_path):
  model = _model(
    size=sizes.SIZES["Ti"], position=learned_grid.LearnedGrid((4, 4))
  )
  arrays = timm.from_ours(made_up.checkpoint(model).arrays, model)
  path = _file(tmp_path, arrays)
  plain = load.read(path)
  assert plain.model == model
  assert plain.spec.origins["num_heads"] == "widths of ViT-Ti"
  config = {
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"num_heads": 6, "act_layer": "gelu_tanh"},
    "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]},
  }
  said = load.read(_file(tmp_path, arrays, config))
  assert said.model == model.clone(
    size=dataclasses.replace(model.size, num_heads=6),
    exact_gelu=False,
    image_mean=(0.1, 0.2, 0.3),
    image_std=(1.0,),
  )
  assert said.spec.origins["gelu"] == "config.json"
  given = load.read(path, num_heads=12, gelu="exact", eps=1e-5)
  assert given.model.size.num_heads == 12
  assert given.model.exact_gelu
  assert given.model.norm_eps == 1e-5
  assert given.spec.origins["gelu"] == "given"


def test_a_damaged_config_json_is_refused(tmp_path):
  path = _file(tmp_path, golden.read(GOLDEN[0])[0])
  (tmp_path / "config.json").write_text('{"architecture": ')
  with pytest.raises(ValueError) as caught:
    load.read(path)
  assert str(caught.value) == (
    f"{tmp_path}/config.json, which says what model.safetensors is, is no JSON "
    "object (Expecting value: line 1 column 18 (char 17)): get it from its "
    "source again"
  )


POSITIONS = [
  # rows, prefix, what is said, (rows of the prefix there, grid)
  (16, 1, {}, (False, (4, 4))),
  (20, 4, {}, (True, (4, 4))),
  (12, 1, {"image_hw": (24, 32)}, (False, (3, 4))),
  (13, 1, {"posemb": (3, 4)}, (True, (3, 4))),
  # Nine may be 3 x 3, or 2 x 2 after five: what is said decides.
  (9, 5, {"posemb": (2, 2)}, (True, (2, 2))),
  (9, 5, {"image_hw": (24, 24)}, (False, (3, 3))),
  (9, 5, {"no_embed_class": False}, (True, (2, 2))),
]


@pytest.mark.parametrize(("total", "prefix", "said", "expected"), POSITIONS)
def test_rows_of_the_prefix_in_the_position_table(
  total, prefix, said, expected
):
  counts = {"cls": 1, "registers": prefix - 1}
  facts = Facts("file", ("said", said))
  rows = timm.position_rows(total, counts, (8, 8), facts)
  with_prefix, grid = expected
  assert ("cls_pos_embedding" in rows) == with_prefix
  assert sum(rows.values()) == total
  assert infer.grid(rows["pos_embedding"], facts) == grid


@pytest.mark.parametrize(
  ("name", "shape", "text"),
  [
    (
      "norm_pre.weight",
      (48,),
      "{path} holds arrays that no ViT here has: norm_pre.weight",
    ),
    (
      "blocks.0.attn.qkv.weight",
      (100, 48),
      "{path}: blocks.0.attn.qkv.weight has shape (100, 48), which makes no ",
    ),
    ("patch_embed.proj.weight", (48, 3), "{path}: patch_embed.proj.weight is "),
  ],
)
def test_arrays_that_no_vit_has_are_refused(tmp_path, name, shape, text):
  arrays = golden.read(GOLDEN[0])[0] | {name: np.zeros(shape, np.float32)}
  path = _file(tmp_path, arrays)
  with pytest.raises(ValueError) as caught:
    load.read(path, num_heads=3)
  assert str(caught.value).startswith(text.format(path=path))


@pytest.mark.parametrize(
  ("config", "text"),
  [
    (
      {"architecture": "vit_base_patch16_rpn_224"},
      "block_fn is 'ResPostBlock', which is not understood here",
    ),
    (
      {"architecture": "vit", "model_args": {"pool_include_prefix": True}},
      "pool_include_prefix is True, which no ViT here has",
    ),
    (
      {"architecture": "vit", "model_args": {"pos_embed": "rope"}},
      "pos_embed is 'rope', which no ViT here has",
    ),
  ],
)
def test_models_that_compute_otherwise_are_refused_by_name(
  config, text, tmp_path
):
  path = _file(tmp_path, golden.read(GOLDEN[0])[0], config)
  with pytest.raises(ValueError) as caught:
    load.read(path, num_heads=3)
  assert str(caught.value) == (
    f"{path}: the config.json beside it cannot be understood: {text}"
  )


@pytest.mark.parametrize(
  ("said", "text"),
  [
    ({"depth": 3}, "depth is 3 (config.json), but its arrays have 2"),
    (
      {"patch_size": 16},
      "kernel_hw is (16, 16) (config.json), but its arrays have (8, 8)",
    ),
  ],
)
def test_a_config_json_of_other_arrays_is_refused(said, text, tmp_path):
  # A file that was cut short, say, is a model of fewer layers.
  config = {"architecture": "vit", "model_args": said}
  path = _file(tmp_path, golden.read(GOLDEN[0])[0], config)
  with pytest.raises(ValueError) as caught:
    load.read(path, num_heads=3)
  assert str(caught.value) == f"{path}: {text}"


@pytest.mark.parametrize("widths", timm.HEADS)
def test_heads_of_timms_own_variants_are_known(widths, tmp_path):
  width, depth, mlp_dim = widths
  heads = timm.HEADS[widths]
  model = _model(
    size=encoder.Size(width, depth, mlp_dim, heads),
    position=learned_grid.LearnedGrid((2, 2)),
    kernel_hw=(2, 2),
  )
  # Shapes are enough.
  arrays = {
    name: np.broadcast_to(np.float32(0), x.shape)
    for name, x in timm.from_ours(
      {
        k: np.broadcast_to(np.float32(0), x.shape)
        for k, x in parameters.shapes(model).items()
      },
      model,
    ).items()
  }
  facts = Facts("file")
  timm.to_ours(arrays, facts)
  assert facts.get("num_heads") == heads
  assert facts.origins["num_heads"] == "its widths"


def test_a_norm_after_pooling_means_an_average(tmp_path):
  model = _model(pool=pooling.Gap(class_token=True), norm_after_pool=True)
  arrays = timm.from_ours(made_up.checkpoint(model).arrays, model)
  path = _file(tmp_path, arrays)
  read = load.read(path, num_heads=3, posemb=(3, 4))
  assert read.model.pool == model.pool
  # Without such a norm a class token is read, and that is said.
  plain = _model()
  arrays = timm.from_ours(made_up.checkpoint(plain).arrays, plain)
  read = load.read(_file(tmp_path, arrays), num_heads=3, posemb=(3, 4))
  assert read.model.pool == pooling.ClassToken()
  assert "  assumed, as it has a class token: pool" in str(read).splitlines()
