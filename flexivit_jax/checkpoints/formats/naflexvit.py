"""timm's NaFlexVit: names, config.json, and what it computes.

Blocks, GELU and epsilon are those of timm's VisionTransformer. The patch
embedding is a linear map of flat patches; positions are a table on a grid of
its own, or one for rows and one for columns, resized to each image's grid.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from flexivit_jax.checkpoints.formats import (
  infer,
  renaming,
  timm,
  timm_arguments,
)
from flexivit_jax.checkpoints.formats.metadata import Facts, as_pair
from flexivit_jax.core.text import show
from flexivit_jax.models import vit
from flexivit_jax.nn.positions import learned_grid, row_column
from flexivit_jax.nn.positions import position as position_lib

NAME = "timm NaFlexVit safetensors"
PROGRAM = "timm's NaFlexVit"
CONVENTION = timm.CONVENTION

KERNEL = "embeds.proj.weight"
TABLE, ROWS, COLS = (
  "embeds.pos_embed",
  "embeds.pos_embed_y",
  "embeds.pos_embed_x",
)
PREFIX = {"cls": "embeds.cls_token", "registers": "embeds.reg_token"}

# What timm 1.0.31 builds otherwise than by its defaults, by name: found by
# building all of its models.
OTHERWISE = tuple(
  (re.compile(pattern), values)
  for pattern, values in (
    (
      r".*_siglip",
      {"act_layer": "gelu_tanh", "pos_embed_interp_mode": "bilinear"},
    ),
    (r".*_par(fac)?_gap", {"pos_embed_ar_preserving": True}),
    (r".*_parfac_gap", {"pos_embed": "factorized"}),
    (
      r".*_radio_.*",
      {
        "pos_embed_interp_mode": "bilinear",
        "pos_embed_ar_preserving": True,
        "pos_embed_antialias": False,
      },
    ),
  )
)

# As in timm.py.
SHOWN = re.compile(
  r"class_token|reg_tokens|init_values|(fc|final|pre|qk)_norm|proj_bias"
  r"|(attn_pool_)?mlp_ratio|scale_(mlp|attn_inner)_norm|num_classes|img_size"
  r"|dynamic_img_pad|weight_init|fix_init|.*drop.*|pos_embed_grid_size"
  r"|embed_proj_type|use_key_only_attn_mask|swiglu_align_to"
  r"|enable_patch_interpolator|rope_(?!type).*"
)
READ = (
  *("patch_size", "in_chans", "embed_dim", "depth", "num_heads", "qkv_bias"),
  *("attn_pool_num_heads", "global_pool", "act_layer", "pos_embed"),
  *("pos_embed_interp_mode", "pos_embed_ar_preserving"),
  *("pos_embed_antialias", "pos_embed_align_corners"),
)
OFF, NONE = (False, None), (None,)
ONLY = {
  **dict.fromkeys(("attn_gated", "swiglu_mlp", "attn_only_layer_scale"), OFF),
  **dict.fromkeys(("pool_include_prefix", "pos_embed_use_grid_sample"), OFF),
  **dict.fromkeys(
    ("num_kv_heads", "block_fn", "mlp_layer", "attn_layer"), NONE
  ),
  "input_norm_layer": NONE,
  "norm_layer": ("layernorm", None),
  "embed_norm_layer": ("layernorm", None),
  "patchify_channels_last": (True, None),
  "qkv_fused": (True, None),
  "attn_type": ("standard", None),
  "rope_type": ("", "none", None),
}


def recognises(names) -> bool:
  return KERNEL in names and "blocks.0.norm1.weight" in names


def facts_in(config: Mapping[str, Any]) -> dict:
  """What a timm config.json says of its model.

  Raises:
    ValueError: it is a model that computes what no ViT here does.
  """
  name = str(config.get("architecture", ""))
  if not name.startswith("naflexvit_"):
    # use_naflex=True with another model's arguments, which the name hides.
    raise ValueError(
      f"it is of {show(name)} built as a NaFlexVit, and only models named "
      "naflexvit_... are known here"
    )
  arguments = {}
  for pattern, values in OTHERWISE:
    if pattern.fullmatch(name):
      arguments |= values
  arguments |= config.get("model_args") or {}
  timm_arguments.check_arguments(arguments, ONLY, READ, SHOWN)
  heads = arguments.get("num_heads")
  in_pool = arguments.get("attn_pool_num_heads")
  if in_pool not in (None, heads):
    raise ValueError(
      f"attn_pool_num_heads is {show(in_pool)}, and num_heads {show(heads)}: a "
      "ViT here has as many in its blocks and its pool"
    )
  act = arguments.get("act_layer")
  pool = arguments.get("global_pool", config.get("global_pool"))
  position = arguments.get("pos_embed", "learned")
  pretrained = config.get("pretrained_cfg") or config
  return {
    "gelu": timm_arguments.ACTIVATIONS.get(act, act),
    "pool": timm_arguments.POOLS.get(pool, pool),
    "num_heads": heads,
    "depth": arguments.get("depth"),
    "width": arguments.get("embed_dim", config.get("num_features")),
    "channels": arguments.get("in_chans"),
    "kernel_hw": as_pair(arguments.get("patch_size")),
    "qkv_bias": arguments.get("qkv_bias"),
    "position": "none" if position in ("", "none") else None,
    "posemb_resize": _resize(arguments),
    # Tables of rows and columns are never antialiased.
    "posemb_antialias": (
      None
      if arguments.get("pos_embed") == "factorized"
      else arguments.get("pos_embed_antialias")
    ),
    "image_mean": pretrained.get("mean"),
    "image_std": pretrained.get("std"),
    "classes": config.get("label_names"),
  }


def _resize(arguments) -> str:
  """How positions are brought to an image's grid: "bilinear", or else."""
  how = arguments.get("pos_embed_interp_mode", "bicubic")
  if arguments.get("pos_embed") == "factorized":
    how = "bilinear"  # whatever the mode
  elif arguments.get("pos_embed_align_corners"):
    how += " between corners"
  if arguments.get("pos_embed_ar_preserving"):
    how += " to a square of the longer side"
  return how


def to_ours(arrays: Mapping[str, np.ndarray], facts: Facts) -> dict:
  """timm's arrays under our names.

  Raises:
    ValueError: an array that no ViT here has, a fact that is missing, or
      positions that are resized as none here are.
  """
  path = facts.path
  mlp = renaming.of_rank(arrays, "blocks.0.mlp.fc1.weight", 2, path)
  convolved = arrays[KERNEL].ndim == 4
  kernel = renaming.of_rank(arrays, KERNEL, 4 if convolved else 2, path)
  depth = infer.count_layers(arrays, "blocks.{}.", path)
  widths = len(kernel), depth, len(mlp)
  facts.add("its widths", {"num_heads": timm.HEADS.get(widths)})
  heads = infer.num_heads(facts, *widths)
  if convolved:
    patch = (*kernel.shape[2:], kernel.shape[1])
  else:
    patch = infer.flat_patch(kernel.shape[1], facts)
  infer.add_stored_patch_size(facts, patch[:2])
  if "fc_norm.weight" in arrays:
    facts.add("its fc_norm", {"pool": "gap"})
  grid = None
  if TABLE in arrays:
    table = renaming.of_rank(arrays, TABLE, 4, path)
    grid = table.shape[1:3]
    facts.agree("posemb", grid, f"its table has {grid[0]}x{grid[1]}")
    facts.add("the table", {"posemb": grid})
  if TABLE in arrays or ROWS in arrays:
    _check_resize(facts, "bicubic" if TABLE in arrays else "bilinear")
    facts.add("the architecture", {"posemb_read": "interpolated"})
  if ROWS in arrays:
    facts.add("the architecture", {"posemb_antialias": False})
  table = rules(depth, heads, patch, grid, convolved=convolved)
  return renaming.to_ours(arrays, table, path)


def _check_resize(facts, default):
  facts.add(f"the default of {PROGRAM}", {"posemb_resize": default})
  how = facts.get("posemb_resize")
  if how != "bilinear":
    raise ValueError(
      f"{facts.path}: positions are resized {how} "
      f"({facts.origins['posemb_resize']}), and only bilinear is known here: "
      "posemb_resize='bilinear' (--posemb_resize) takes it for that, which is "
      "right on the table's own grid, if nowhere else"
    )


def rules(depth: int, heads: int, patch, grid, *, convolved: bool = False):
  """The table of names and transforms.

  Args:
    patch: (height, width, channels) of the patch embedding.
    grid: (rows, cols) of the table of positions, if there is one.
    convolved: whether the patch embedding is stored as a convolution's.
  """
  kernel = renaming.flat_patches(KERNEL, "embedding/kernel", patch)
  if convolved:
    kernel = renaming.convolution(KERNEL, "embedding/kernel")
  rows, cols = grid or (-1, 1)
  return [
    kernel,
    renaming.same("embeds.proj.bias", "embedding/bias"),
    *renaming.norm("embeds.norm", "embedding_norm"),
    *(renaming.same(theirs, ours) for ours, theirs in PREFIX.items()),
    renaming.reshaped(
      TABLE, learned_grid.TABLE, (1, rows, cols, -1), (1, rows * cols, -1)
    ),
    *(
      renaming.leading_one(theirs, ours)
      for theirs, ours in ((ROWS, row_column.ROW), (COLS, row_column.COL))
    ),
    *timm.encoder_rules(depth, heads),
  ]


def from_ours(arrays: Mapping[str, np.ndarray], model: vit.ViT) -> dict:
  """Our arrays, one by one for each layer, under timm's names.

  Raises:
    ValueError: the model has what timm's NaFlexVit has not.
  """
  match model.position:
    case (
      learned_grid.LearnedGrid()
      | position_lib.NoPosition()
      | row_column.RowColumn(_, "sum", "interpolated", 0, False)
    ):
      known = True
    case _:
      known = False
  infer.refuse(
    PROGRAM,
    {
      "representation": model.representation,
      "prefix_position": model.prefix_position,
      "positions but a learned grid, interpolated rows and columns, and none": (
        not known
      ),
      **infer.seldom(model),
    },
  )
  size, grid = model.size, None
  if isinstance(model.position, learned_grid.LearnedGrid):
    grid = model.position.size
  patch = (*model.kernel_hw, model.channels)
  table = rules(size.depth, size.num_heads, patch, grid)
  return renaming.from_ours(arrays, table, PROGRAM)


def config(model: vit.ViT, classes=()) -> dict:
  """A config.json that timm opens: its model's name and arguments."""
  arguments = timm.shared_arguments(model)
  arguments["pos_embed_interp_mode"] = "bilinear"
  match model.position:
    case learned_grid.LearnedGrid(grid, antialias):
      arguments["pos_embed_grid_size"] = list(grid)
      arguments["pos_embed_antialias"] = antialias
    case row_column.RowColumn(grid):
      arguments["pos_embed_grid_size"] = list(grid)
      arguments["pos_embed"] = "factorized"
    case position_lib.NoPosition():
      arguments["pos_embed"] = "none"
  pretrained = {
    "input_size": [model.channels, *(24 * p for p in model.kernel_hw)],
    "fixed_input_size": False,
    "first_conv": "embeds.proj",
  }
  return timm.saved_config(
    "naflexvit_base_patch16_gap", arguments, pretrained, model, classes
  )
