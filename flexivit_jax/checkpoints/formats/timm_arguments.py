"""Arguments of timm's VisionTransformer, from config.json."""

import re
from collections.abc import Mapping
from typing import Any

from flexivit_jax.checkpoints.formats.metadata import as_pair
from flexivit_jax.core.text import show

# What timm 1.0.31 builds otherwise than the convention, by name: found by
# building all of its models. Block and pooling that are no ViT's here have the
# same arrays, so only the name tells.
OTHERWISE = tuple(
  (re.compile(pattern), values)
  for pattern, values in (
    (r".*_quickgelu_.*", {"gelu": "quick_gelu"}),
    (r".*_clip_.*|beit3_.*", {"eps": 1e-5}),
    (r"vit_(giantopt|so400m)_patch16_siglip_.*", {"gelu": "tanh"}),
    (r"vit_base_patch32_siglip_(gap_)?256", {"gelu": "tanh"}),
    (r"vit_large_patch16_siglip_(gap_)?512", {"gelu": "tanh"}),
    (r"vit_giantopt_.*|vit_base_patch16_gap_224", {"num_heads": 16}),
    (r".*_rpn_.*", {"block_fn": "ResPostBlock"}),
    (r"test_vit3", {"pool_include_prefix": True}),
  )
)

# Arguments of a model that the arrays show, or that change no number.
SHOWN = re.compile(
  r"class_token|reg_tokens|init_values|fc_norm|final_norm|pre_norm|qk_norm"
  r"|proj_bias|mlp_ratio|scale_(attn|mlp)_norm|num_classes"
  r"|dynamic_img_(size|pad)|strict_img_size|weight_init|fix_init|.*drop.*"
)

# Those that are read below, and those that may only be as they are anyway.
READ = (
  *("img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads"),
  *("global_pool", "act_layer", "no_embed_class", "qkv_bias", "pos_embed"),
)

ONLY = {
  "pool_include_prefix": (False, None),
  "norm_layer": ("layernorm", None),
  "embed_norm_layer": ("layernorm", None),
}

ACTIVATIONS = {
  "gelu": "exact",
  "gelu_erf": "exact",
  "gelu_tanh": "tanh",
  "quick_gelu": "quick_gelu",
}

POOLS = {"token": "tok", "avg": "gap", "map": "map"}


def facts_in(config: Mapping[str, Any]) -> dict:
  """What a timm config.json says of its model.

  Raises:
    ValueError: it is a model that computes what no ViT here does.
  """
  name = str(config.get("architecture", ""))
  arguments = {}
  for pattern, values in OTHERWISE:
    if pattern.fullmatch(name):
      arguments |= values
  facts = {
    key: arguments.pop(key) for key in ("gelu", "eps") if key in arguments
  }
  arguments |= config.get("model_args") or {}
  check_arguments(arguments, ONLY, READ, SHOWN)
  if "act_layer" in arguments:
    act = arguments["act_layer"]
    facts["gelu"] = ACTIVATIONS.get(act, act)
  pool = arguments.get("global_pool", config.get("global_pool"))
  pretrained = config.get("pretrained_cfg") or config
  size = arguments.get("img_size", pretrained.get("input_size"))
  position = arguments.get("pos_embed", "learn")
  if position not in ("learn", "none", ""):
    raise ValueError(f"pos_embed is {show(position)}, which no ViT here has")
  return facts | {
    "pool": POOLS.get(pool, pool),
    "num_heads": arguments.get("num_heads"),
    "depth": arguments.get("depth"),
    "width": arguments.get("embed_dim", config.get("num_features")),
    "channels": arguments.get("in_chans"),
    "kernel_hw": as_pair(arguments.get("patch_size")),
    "qkv_bias": arguments.get("qkv_bias"),
    "no_embed_class": arguments.get("no_embed_class"),
    "position": None if position == "learn" else "none",
    "image_hw": as_pair(size[-2:] if isinstance(size, list) else size),
    "image_mean": pretrained.get("mean"),
    "image_std": pretrained.get("std"),
    "classes": config.get("label_names"),
  }


def check_arguments(
  arguments: Mapping[str, Any],
  only: Mapping[str, tuple],
  read: tuple[str, ...],
  shown: re.Pattern,
) -> None:
  """Every argument of a model has to be understood.

  Args:
    only: arguments to the values that they may have.
    read: names that are read elsewhere.
    shown: names that the arrays show, or that change no number.

  Raises:
    ValueError: one is not, or has another value.
  """
  for key, value in arguments.items():
    if key in only and value not in only[key]:
      raise ValueError(f"{key} is {show(value)}, which no ViT here has")
    if not (key in only or key in read or shown.fullmatch(key)):
      raise ValueError(f"{key} is {show(value)}, which is not understood here")
