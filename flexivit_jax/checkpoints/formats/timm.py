"""timm's VisionTransformer: names, config.json, and what it computes.

GELU is exact but where the model's name or `act_layer` says otherwise, epsilon
1e-6. The patch embedding is a convolution of the patch size that the model is
for; its positions are those of one input size.
"""

import math
from collections.abc import Mapping

import numpy as np

from flexivit_jax.checkpoints.formats import (
  infer,
  other_positions,
  parameters,
  renaming,
)
from flexivit_jax.checkpoints.formats.metadata import Facts
from flexivit_jax.checkpoints.formats.timm_arguments import POOLS
from flexivit_jax.models import vit
from flexivit_jax.nn.positions import position as position_lib
from flexivit_jax.nn.positions import waves

NAME = "timm safetensors"
PROGRAM = "timm"
# The normalisation is that of most of its ViTs, not of DeiT and DINO.
CONVENTION = {
  "gelu": "exact",
  "eps": 1e-6,
  "image_mean": (0.5,),
  "image_std": (0.5,),
  "rms_norm": False,
}


# Heads of (width, depth, hidden width) that big_vision's variants do not have.
HEADS = {
  (256, 14, 1280): 4,
  (320, 14, 1792): 5,
  (384, 36, 1536): 6,
  (512, 20, 2048): 8,
  (640, 12, 2560): 10,
  (832, 21, 2176): 13,
  (896, 12, 3584): 14,
  (896, 18, 2304): 14,
}


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


def to_ours(arrays: Mapping[str, np.ndarray], facts: Facts) -> dict:
  """timm's arrays under our names.

  Raises:
    ValueError: an array that no ViT here has, or a fact that is missing.
  """
  path = facts.path
  kernel = renaming.of_rank(arrays, "patch_embed.proj.weight", 4, path)
  mlp = renaming.of_rank(arrays, "blocks.0.mlp.fc1.weight", 2, path)
  depth = infer.count_layers(arrays, "blocks.{}.", path)
  width = kernel.shape[0]
  widths = width, depth, mlp.shape[0]
  facts.add("its widths", {"num_heads": HEADS.get(widths)})
  heads = infer.num_heads(facts, *widths)
  infer.add_stored_patch_size(facts, kernel.shape[2:])
  if "fc_norm.weight" in arrays:
    # What timm has a norm after the pooling for.
    facts.add("its fc_norm", {"pool": "gap"})
  prefix = {
    name: arrays[theirs].shape[1]
    for name, theirs in PREFIX.items()
    if theirs in arrays and arrays[theirs].ndim == 3
  }
  counts = {}
  if "pos_embed" in arrays:
    table = renaming.of_rank(arrays, "pos_embed", 3, path)
    counts = position_rows(table.shape[1], prefix, kernel.shape[2:], facts)
  return renaming.to_ours(arrays, rules(depth, heads, counts), path)


PREFIX = {"cls": "cls_token", "registers": "reg_token"}


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
    return infer.side(cells) is not None

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
  positions_rule = []
  if position_rows:
    positions_rule = [renaming.rows("pos_embed", position_rows)]
  return [
    *(renaming.same(theirs, ours) for ours, theirs in PREFIX.items()),
    *positions_rule,
    renaming.convolution("patch_embed.proj.weight", "embedding/kernel"),
    renaming.same("patch_embed.proj.bias", "embedding/bias"),
    *renaming.norm("patch_embed.norm", "embedding_norm"),
    *encoder_rules(depth, heads),
  ]


def encoder_rules(depth: int, heads: int) -> list[renaming.Rule]:
  """The part of the table that is the same in NaFlexVit: all but the stem."""
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
  return [
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
  infer.refuse(
    PROGRAM,
    {
      "representation": model.representation,
      "positions without a table": isinstance(
        model.position, (waves.SinCos2D, position_lib.NoPosition)
      ),
      **other_positions.ours_alone(model.position),
      **infer.seldom(model),
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
  known = infer.variant(size.width, size.depth, size.mlp_dim)
  name = REGISTERED.get(known, "vit_base_patch16_224")
  image_hw = list(infer.stored_image_hw(model))
  arguments = {
    "img_size": image_hw,
    **shared_arguments(model),
    "no_embed_class": not model.prefix_position,
  }
  pretrained = {
    "input_size": [model.channels, *image_hw],
    "fixed_input_size": True,
    "first_conv": "patch_embed.proj",
  }
  return saved_config(name, arguments, pretrained, model, classes)


def shared_arguments(model: vit.ViT) -> dict:
  """Arguments that timm's VisionTransformer and NaFlexVit have in common."""
  size = model.size
  pools = {v: k for k, v in POOLS.items()}
  arguments = {
    "patch_size": list(model.kernel_hw),
    "in_chans": model.channels,
    "num_classes": model.num_classes,
    "embed_dim": size.width,
    "depth": size.depth,
    "num_heads": size.num_heads,
    "mlp_ratio": mlp_ratio(size.mlp_dim, size.width),
    "qkv_bias": model.qkv_bias,
    "qk_norm": model.qk_norm,
    "proj_bias": model.proj_bias,
    "init_values": model.layer_scale,
    "class_token": model.pool.class_token,
    "reg_tokens": model.registers,
    "global_pool": pools[infer.POOLS[type(model.pool)]],
    "fc_norm": model.norm_after_pool,
    "act_layer": "gelu" if model.exact_gelu else "gelu_tanh",
  }
  if model.embedding_norm:
    arguments["embed_norm_layer"] = "layernorm"
  return arguments


def saved_config(
  name: str, arguments: dict, pretrained: dict, model: vit.ViT, classes
) -> dict:
  """The config.json of a model with these arguments and `pretrained_cfg`."""
  mean, std = infer.normalization(model)
  labels = {}
  if len(classes) == model.num_classes > 0:
    labels = {"label_names": list(classes)}
  return {
    "architecture": name,
    "num_classes": model.num_classes,
    "num_features": model.size.width,
    "global_pool": arguments["global_pool"],
    "model_args": arguments,
    "pretrained_cfg": {
      "custom_load": False,
      **pretrained,
      "mean": mean,
      "std": std,
      "num_classes": model.num_classes,
      "classifier": "head",
    },
    **labels,
  }


def mlp_ratio(mlp_dim, width):
  """What times the width, rounded down, is the hidden width."""
  ratio = mlp_dim / width
  return ratio if int(width * ratio) == mlp_dim else (mlp_dim + 0.5) / width
