"""timm's VisionTransformer: names, config.json, and what it computes.

GELU is exact but where the model's name or `act_layer` says otherwise, epsilon
1e-6. The patch embedding is a convolution of the patch size that the model is
for; its positions are those of one input size.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from flexivit_jax.formats import architecture, parameters, renaming
from flexivit_jax.formats.facts import Facts
from flexivit_jax.nn import positions, vit

NAME = "timm safetensors"
PROGRAM = "timm"
# The normalisation is that of most of its ViTs, not of DeiT and DINO.
CONVENTION = {
  "gelu": "exact",
  "eps": 1e-6,
  "image_mean": (0.5,),
  "image_std": (0.5,),
  "position": "none",  # where there is no table
}

# Of timm 1.0.31's VisionTransformers, those with the tanh approximation, and
# those with another activation or epsilon (most of them CLIP's).
TANH = re.compile(
  r"vit_(giantopt_patch16|so400m_patch16)_siglip_.*"
  r"|vit_(base_patch32|large_patch16)_siglip_(gap_)?(256|512)"
)
OTHERWISE = (
  (re.compile(r".*_quickgelu_.*"), {"gelu": "quick_gelu"}),
  (re.compile(r".*_clip_.*|beit3_.*"), {"eps": 1e-5}),
  (TANH, {"gelu": "tanh"}),
)
ACTIVATIONS = {
  "gelu": "exact",
  "gelu_erf": "exact",
  "gelu_tanh": "tanh",
  "quick_gelu": "quick_gelu",
}
POOLS = {"token": "tok", "avg": "gap", "map": "map"}

# The registered model that the arguments of `config` are given to; they say
# everything that its own defaults do.
REGISTERED = {
  "Ti": "vit_tiny_patch16_224",
  "S": "vit_small_patch16_224",
  "B": "vit_base_patch16_224",
  "L": "vit_large_patch16_224",
  "H": "vit_huge_patch14_224",
  "g": "vit_giant_patch14_224",
  "G": "vit_gigantic_patch14_224",
}


def recognises(names) -> bool:
  return "patch_embed.proj.weight" in names and "blocks.0.norm1.weight" in names


def facts_in(config: Mapping[str, Any]) -> dict:
  """What a timm config.json says of its model."""
  arguments = config.get("model_args") or {}
  pretrained = config.get("pretrained_cfg") or config
  name = str(config.get("architecture", ""))
  facts = {}
  for pattern, values in OTHERWISE:
    if pattern.fullmatch(name):
      facts |= values
  if "act_layer" in arguments:
    act = arguments["act_layer"]
    facts["gelu"] = ACTIVATIONS.get(act, act)
  pool = arguments.get("global_pool", config.get("global_pool"))
  facts["pool"] = POOLS.get(pool, pool)
  facts["num_heads"] = arguments.get("num_heads")
  facts["image_mean"] = pretrained.get("mean")
  facts["image_std"] = pretrained.get("std")
  size = arguments.get("img_size", pretrained.get("input_size"))
  if size is not None:
    size = [size] * 2 if isinstance(size, int) else list(size)[-2:]
    facts["image_hw"] = tuple(size)
  facts["no_embed_class"] = arguments.get("no_embed_class")
  facts["classes"] = config.get("label_names")
  return facts


def to_ours(arrays: Mapping[str, np.ndarray], facts: Facts) -> dict:
  """timm's arrays under our names.

  Raises:
    ValueError: an array that no ViT here has, or a fact that is missing.
  """
  path = facts.path
  kernel = _get(arrays, "patch_embed.proj.weight", 4, path)
  mlp = _get(arrays, "blocks.0.mlp.fc1.weight", 2, path)
  depth = architecture.count_layers(arrays, "blocks.{}.", path)
  width = kernel.shape[0]
  heads = architecture.num_heads(facts, width, depth, mlp.shape[0])
  architecture.add_stored_patch_size(facts, kernel.shape[2:])
  prefix = {
    name: arrays[theirs].shape[1]
    for name, theirs in PREFIX.items()
    if theirs in arrays and arrays[theirs].ndim == 3
  }
  counts = {}
  if "pos_embed" in arrays:
    table = _get(arrays, "pos_embed", 3, path)
    counts = position_rows(table.shape[1], prefix, kernel.shape[2:], facts)
  return renaming.to_ours(arrays, rules(depth, heads, counts), path)


PREFIX = {"cls": "cls_token", "registers": "reg_token"}


def _get(arrays, name, rank, path):
  """An array that every ViT of timm has, of the rank that it has there."""
  if name not in arrays or arrays[name].ndim != rank:
    what = arrays[name].shape if name in arrays else "missing"
    raise ValueError(f"{path}: {name} is {what}: not a VisionTransformer's")
  return arrays[name]


def position_rows(
  total: int,
  prefix: Mapping[str, int],
  patch_hw: tuple[int, int],
  facts: Facts,
) -> dict[str, int]:
  """What the rows of the position table are for, in their order.

  Args:
    total: rows of the table.
    prefix: our names of the tokens in front, and how many they are; whether
      the table has rows for them is not written in it.
    patch_hw: of the stored patch embedding.
  """
  extra = sum(prefix.values())
  grid_hw = facts.get("posemb", None)
  image_hw = facts.get("image_hw", None)
  if grid_hw is None and image_hw is not None:
    grid_hw = tuple(side // p for side, p in zip(image_hw, patch_hw))
    facts.add("config.json", {"posemb": grid_hw})

  def is_grid(cells):
    if grid_hw is not None:
      return cells == math.prod(grid_hw)
    return architecture.side(cells) is not None

  without = facts.get("no_embed_class", None)
  if without is None:
    without = is_grid(total) or not is_grid(total - extra)
  if without:
    return {"pos_embedding": total}
  rows = {f"{name}_pos_embedding": count for name, count in prefix.items()}
  return rows | {"pos_embedding": total - extra}


def rules(depth: int, heads: int, position_rows: Mapping[str, int]):
  """The table of names and transforms.

  Args:
    position_rows: our names of what the position table holds, in order, and
      their numbers of rows.
  """
  block_rules = []
  for i in range(depth):
    theirs, ours = f"blocks.{i}", f"{parameters.BLOCKS}_{i}"
    attention = f"{ours}/{parameters.ATTENTION}"
    qkv = tuple(f"{attention}/{name}" for name in ("query", "key", "value"))
    block_rules += [
      *renaming.norm(f"{theirs}.norm1", f"{ours}/LayerNorm_0"),
      *renaming.projections(f"{theirs}.attn.qkv", qkv, heads),
      *renaming.norm(f"{theirs}.attn.q_norm", f"{attention}/query_ln"),
      *renaming.norm(f"{theirs}.attn.k_norm", f"{attention}/key_ln"),
      *renaming.out_projection(
        f"{theirs}.attn.proj", f"{attention}/out", heads
      ),
      renaming.same(f"{theirs}.ls1.gamma", f"{ours}/LayerScale_0/scale"),
      *renaming.norm(f"{theirs}.norm2", f"{ours}/LayerNorm_1"),
      *renaming.linear(f"{theirs}.mlp.fc1", f"{ours}/MlpBlock_0/Dense_0"),
      *renaming.linear(f"{theirs}.mlp.fc2", f"{ours}/MlpBlock_0/Dense_1"),
      renaming.same(f"{theirs}.ls2.gamma", f"{ours}/LayerScale_1/scale"),
    ]
  attention = f"MAPHead_0/{parameters.ATTENTION}"
  positions_rule = []
  if position_rows:
    positions_rule = [renaming.rows("pos_embed", position_rows)]
  return [
    *(renaming.same(theirs, ours) for ours, theirs in PREFIX.items()),
    *positions_rule,
    renaming.convolution("patch_embed.proj.weight", "embedding/kernel"),
    renaming.same("patch_embed.proj.bias", "embedding/bias"),
    *renaming.norm("patch_embed.norm", "embedding_norm"),
    *block_rules,
    *renaming.norm("norm", "Transformer/encoder_norm"),
    *renaming.norm("fc_norm", "pool_norm"),
    renaming.same("attn_pool.latent", "MAPHead_0/probe"),
    *renaming.projections("attn_pool.q", (f"{attention}/query",), heads),
    *renaming.projections(
      "attn_pool.kv", (f"{attention}/key", f"{attention}/value"), heads
    ),
    *renaming.out_projection("attn_pool.proj", f"{attention}/out", heads),
    *renaming.norm("attn_pool.norm", "MAPHead_0/LayerNorm_0"),
    *renaming.linear("attn_pool.mlp.fc1", "MAPHead_0/MlpBlock_0/Dense_0"),
    *renaming.linear("attn_pool.mlp.fc2", "MAPHead_0/MlpBlock_0/Dense_1"),
    *renaming.linear("head", "head"),
  ]


def from_ours(arrays: Mapping[str, np.ndarray], model: vit.ViT) -> dict:
  """Our arrays, one by one for each layer, under timm's names.

  Raises:
    ValueError: the model has what timm's VisionTransformer has not.
  """
  architecture.refuse(
    PROGRAM,
    {
      "representation": model.representation,
      "positions without a table": not isinstance(
        model.position, positions.LearnedGrid
      ),
    },
  )
  table = (*(f"{name}_pos_embedding" for name in PREFIX), "pos_embedding")
  counts = {name: arrays[name].shape[1] for name in table if name in arrays}
  size = model.size
  table_rules = rules(size.depth, size.num_heads, counts)
  return renaming.from_ours(arrays, table_rules, PROGRAM)


def config(model: vit.ViT, classes=()) -> dict:
  """A config.json that timm opens: its model's name and arguments."""
  size = model.size
  known = architecture.variant(size.width, size.depth, size.mlp_dim)
  name = REGISTERED.get(known, "vit_base_patch16_224")
  image_hw = list(architecture.stored_image_hw(model))
  pool = {v: k for k, v in POOLS.items()}[architecture.POOLS[type(model.pool)]]
  arguments = {
    "img_size": image_hw,
    "patch_size": list(model.kernel_hw),
    "in_chans": model.channels,
    "num_classes": model.num_classes,
    "embed_dim": size.width,
    "depth": size.depth,
    "num_heads": size.num_heads,
    "mlp_ratio": _ratio(size.mlp_dim, size.width),
    "qkv_bias": model.qkv_bias,
    "qk_norm": model.qk_norm,
    "init_values": model.layer_scale,
    "class_token": model.pool.class_token,
    "no_embed_class": not model.prefix_position,
    "reg_tokens": model.registers,
    "global_pool": pool,
    "fc_norm": model.norm_after_pool,
    "act_layer": "gelu" if model.exact_gelu else "gelu_tanh",
  }
  if model.embedding_norm:
    arguments["embed_norm_layer"] = "layernorm"
  mean, std = architecture.normalization(model)
  return {
    "architecture": name,
    "num_classes": model.num_classes,
    "num_features": size.width,
    "global_pool": pool,
    "model_args": arguments,
    "pretrained_cfg": {
      "custom_load": False,
      "input_size": [model.channels, *image_hw],
      "fixed_input_size": True,
      "mean": mean,
      "std": std,
      "num_classes": model.num_classes,
      "first_conv": "patch_embed.proj",
      "classifier": "head",
    },
    # Of every class, or of none.
    **(
      {"label_names": list(classes)}
      if len(classes) == model.num_classes > 0
      else {}
    ),
  }


def _ratio(mlp_dim, width):
  """What times the width, rounded down, is the hidden width."""
  ratio = mlp_dim / width
  return ratio if int(width * ratio) == mlp_dim else (mlp_dim + 0.5) / width
