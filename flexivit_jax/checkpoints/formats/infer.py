"""The model that a checkpoint's arrays, under our names, are made for."""

import math
import re
from collections.abc import Iterable, Mapping

import numpy as np

from flexivit_jax.checkpoints.formats import (
  options,
  other_positions,
  stem_parameters,
)
from flexivit_jax.checkpoints.formats.metadata import Facts
from flexivit_jax.checkpoints.formats.parameters import (
  ATTENTION,
  BLOCKS,
  naming,
  of_rank,
)
from flexivit_jax.models import sizes, vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid
from flexivit_jax.nn.stems import stem as stem_lib


def variant(width: int, depth: int, mlp_dim: int) -> str | None:
  """Name of the published variant with these widths."""
  for name, size in sizes.SIZES.items():
    if (size.width, size.depth, size.mlp_dim) == (width, depth, mlp_dim):
      return name
  return None


def num_heads(facts: Facts, width: int, depth: int, mlp_dim: int) -> int:
  """Where the arrays' shapes do not tell: given, written, or the variant's.

  Raises:
    ValueError: none of these, or the width is no multiple of it.
  """
  known = variant(width, depth, mlp_dim)
  if known is not None:
    heads = sizes.SIZES[known].num_heads
    facts.add(f"widths of ViT-{known}", {"num_heads": heads})
  heads = facts.get("num_heads")
  if heads < 1 or width % heads:
    raise ValueError(
      f"{facts.path}: num_heads is {heads} ({facts.origins['num_heads']}), of "
      f"which the width {width} is no multiple"
    )
  return heads


def count_layers(names: Iterable[str], start: str, path) -> int:
  """One more than the largest number of a layer.

  Args:
    start: how the names of a layer begin, with {} for its number; one does.

  Raises:
    ValueError: it is more than any model has: tables of so many rows would be
      made.
  """
  # No more digits than any depth has: Python refuses thousands of them.
  pattern = re.escape(start).replace(r"\{\}", r"(\d{1,9})")
  numbers = (re.match(pattern, name) for name in names)
  depth = 1 + max(int(m[1]) for m in numbers if m)
  if depth > encoder.MAX_DEPTH:
    raise ValueError(
      f"{path}: {start.format(depth - 1)}... is beyond the {encoder.MAX_DEPTH} "
      "layers that a model may have"
    )
  return depth


def add_stored_patch_size(facts: Facts, kernel_hw) -> None:
  """For formats that store the patch embedding at the size that it is for."""
  if not facts.get("any_patch_size", False):
    facts.add("stored patch embedding", {"patch_size": tuple(kernel_hw)})


def flat_patch(total: int, facts: Facts) -> tuple[int, int, int]:
  """(height, width, channels) of patches that are stored as `total` numbers.

  Raises:
    ValueError: they are no square of three channels and nobody says what.
  """
  root = side(total // 3)
  if root is not None and total % 3 == 0:
    assumed = {"kernel_hw": (root, root), "channels": 3}
    facts.add("assumed, as squares of 3 channels", assumed)
  hw, channels = facts.get("kernel_hw", None), facts.get("channels", 3)
  if hw is None or math.prod(hw) * channels != total:
    what = "square" if hw is None else f"{hw[0]}x{hw[1]} pixels"
    raise ValueError(
      f"{facts.path}: its patches of {total} numbers are no {what} of "
      f"{channels} channels: say otherwise in a config.json beside it"
    )
  return *hw, channels


def side(cells: int) -> int | None:
  """Of a square grid; None if it is none."""
  root = math.isqrt(cells)
  return root if root * root == cells else None


def grid(cells: int, facts: Facts) -> tuple[int, int]:
  """(rows, cols) of a position table.

  Raises:
    ValueError: it is not square and nobody says, or says otherwise.
  """
  root = side(cells)
  rows_cols = facts.get("posemb", (root, root) if root else None)
  if rows_cols is None or math.prod(rows_cols) != cells:
    what = "square"
    if rows_cols is not None:
      what = f"grid of {rows_cols[0]}x{rows_cols[1]}"
    raise ValueError(
      f"{facts.path}: its {cells} positions are no {what}: give its rows and "
      "columns as posemb=(rows, cols)"
    )
  return rows_cols


def model_of(arrays: Mapping[str, np.ndarray], facts: Facts) -> vit.ViT:
  """Reads the model off the arrays' shapes and the facts beside them.

  Args:
    arrays: under our names (docs/parameters.md).

  Raises:
    ValueError: an array is missing that every ViT has, or has another rank; a
      fact is missing, or is not what the arrays say; no model has such values.
  """
  stacked = any(name.startswith(f"{BLOCKS}/") for name in arrays)
  block = f"{BLOCKS}/" if stacked else f"{BLOCKS}_0/"
  query = options.required(
    arrays, facts, f"{block}{ATTENTION}/query/kernel", 3 + stacked
  )
  mlp = options.required(
    arrays, facts, f"{block}MlpBlock_0/Dense_0/kernel", 2 + stacked
  )
  kernel = options.required(arrays, facts, "embedding/kernel", 4)
  width, heads = query.shape[stacked : 2 + stacked]
  facts.agree("num_heads", heads, f"its arrays have {heads}")
  registers = of_rank(arrays, "registers", 3, facts.path)
  stem = stem_parameters.read(arrays, facts.path)
  channels = stem_parameters.image_channels(arrays, facts.path)
  if channels is None:
    channels = kernel.shape[2]
  fields = dict(
    position=_position(arrays, facts),
    pool=options.pool(arrays, facts),
    kernel_hw=kernel.shape[:2],
    num_classes=options.classes(arrays, facts),
    channels=channels,
    kernel_antialias=facts.get("kernel_antialias", False),
    image_mean=options.per_channel("image_mean", facts),
    image_std=options.per_channel("image_std", facts),
    standardize=facts.get("standardize", False),
    embedding_norm="embedding_norm/scale" in arrays,
    registers=0 if registers is None else registers.shape[1],
    prefix_position=any(name.endswith("_pos_embedding") for name in arrays),
    representation="pre_logits/kernel" in arrays,
    attention_scale=facts.get("attention_scale", None),
    norm_after_pool="pool_norm/scale" in arrays,
    exact_gelu=options.gelu(facts) == "exact",
    norm_eps=facts.get("eps"),
    scan=stacked,
    stem=stem,
    **options.of_blocks(arrays),
  )
  depth = len(query) if stacked else None
  if depth is None:
    depth = count_layers(arrays, f"{BLOCKS}_{{}}/", facts.path)
  with naming(facts.path):
    size = encoder.Size(width, depth, mlp.shape[-1], heads)
  _agree(facts, size, fields)
  with naming(facts.path):
    return vit.ViT(size, **fields)


def _agree(facts, size, fields):
  """Refuses facts that are not what the arrays say."""
  shown = {
    **{name: getattr(size, name) for name in ("width", "depth", "mlp_dim")},
    **{name: fields[name] for name in ("channels", "kernel_hw", "qkv_bias")},
  }
  for name, value in shown.items():
    facts.agree(name, value, f"its arrays have {value}")
  biases = "no biases" if fields["rms_norm"] else "biases"
  facts.agree("rms_norm", fields["rms_norm"], f"its norms have {biases}")


def _position(arrays, facts):
  table = of_rank(arrays, "pos_embedding", 3, facts.path)
  if table is not None:
    antialias = facts.get("posemb_antialias", True)
    size = grid(table.shape[1], facts)
    with naming(facts.path):
      return learned_grid.LearnedGrid(size, antialias)
  return other_positions.read(arrays, facts)


POOLS = {pooling.Gap: "gap", pooling.ClassToken: "tok", pooling.Map: "map"}


def facts_of(model: vit.ViT) -> dict:
  """What `model_of` asks of its facts, as JSON: the inverse of it."""
  facts = {
    "num_heads": model.size.num_heads,
    "gelu": "exact" if model.exact_gelu else "tanh",
    "eps": model.norm_eps,
    "pool": POOLS[type(model.pool)],
    "kernel_antialias": model.kernel_antialias,
    "image_mean": list(model.image_mean),
    "image_std": list(model.image_std),
  }
  match model.position:
    case learned_grid.LearnedGrid(size, antialias):
      facts |= {"posemb": list(size), "posemb_antialias": antialias}
    case other:
      facts |= other_positions.facts_of(other)
  if model.standardize:
    facts["standardize"] = True
  if model.attention_scale is not None:
    facts["attention_scale"] = model.attention_scale
  return facts


def stored_image_hw(model: vit.ViT) -> tuple[int, int]:
  """Of the input that a learned table and the stored kernel are for."""
  (rows, cols), (h, w) = model.position.size, model.stored_patch_hw
  return rows * h, cols * w


def normalization(model: vit.ViT) -> tuple[list[float], list[float]]:
  """(mean, std) with a number for each channel."""
  return tuple(
    [values[i % len(values)] for i in range(model.channels)]
    for values in (model.image_mean, model.image_std)
  )


def differences(model: vit.ViT, convention: Mapping) -> list[str]:
  """What a format does otherwise than the model, and cannot say.

  Args:
    convention: facts that are the same for all of the format's models.
  """
  facts = facts_of(model)
  return [
    f"{name} is {facts[name]}, and will be {to_json(value)} there"
    for name, value in convention.items()
    if name in facts and facts[name] != to_json(value)
  ]


def to_json(value):
  return list(value) if isinstance(value, tuple) else value


def refuse(format_name: str, used: Mapping[str, object]) -> None:
  """Refuses a model with something that a format has no place for.

  Args:
    used: what it is to whether the model has it.

  Raises:
    ValueError: naming all of it.
  """
  if missing := [name for name, value in used.items() if value]:
    raise ValueError(f"{format_name} has no {', no '.join(missing)}")


def seldom(model: vit.ViT) -> dict[str, bool]:
  """What few formats have a place for, to `refuse`."""
  return {
    "rms_norm": model.rms_norm,
    "gated_mlp": model.gated_mlp,
    "attention_scale": model.attention_scale is not None,
    "standardize": model.standardize,
    STEM: not isinstance(model.stem, stem_lib.NoStem),
  }


STEM = "convolutional stem (orbax has a place for it)"
LAYER_SCALE = "layer_scale (--fold_layer_scale multiplies it into its layers)"
