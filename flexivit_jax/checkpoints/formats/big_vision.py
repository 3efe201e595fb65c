"""big_vision's `.npz` names: ours, but for those of older files.

vit_jax's hybrids (google-research/vision_transformer) are such older files,
with a ResNet's arrays beside the ViT's.

GELU, epsilon and the resize convention are big_vision's own and stand in no
file: tanh, 1e-6, bilinear without antialias (positions with).
"""

import math
import re
from collections.abc import Mapping

import numpy as np

from flexivit_jax.checkpoints.formats import (
  infer,
  other_positions,
  stem_parameters,
)
from flexivit_jax.checkpoints.formats.metadata import Facts
from flexivit_jax.models import vit
from flexivit_jax.nn import pooling
from flexivit_jax.nn.positions import position
from flexivit_jax.nn.stems import resnet
from flexivit_jax.nn.stems import stem as stem_lib

NAME = "big_vision npz"
PROGRAM = "big_vision"
CONVENTION = {
  "gelu": "tanh",
  "eps": 1e-6,
  "kernel_antialias": False,
  "posemb_antialias": True,
  "image_mean": (0.5,),
  "image_std": (0.5,),
  "rms_norm": False,
  "position": "sincos2d",  # where there is no table
  "temperature": 10_000.0,
}

# Where the parameters are: a training checkpoint's, before 2022 and since, or
# a file of parameters alone.
PREFIXES = ("params/", "opt/target/", "")

# Names of older files, by pattern, and today's.
OLD_NAMES = (
  (r"Transformer/(?:posembed_input/)?pos_embedding", "pos_embedding"),
  (r"(.*encoderblock(?:_\d+)?/)MultiHeadDotProductAttention_1/(.*)",
   r"\1MultiHeadDotProductAttention_0/\2"),
  (r"(.*encoderblock(?:_\d+)?/)LayerNorm_2/(.*)", r"\1LayerNorm_1/\2"),
  (r"(.*encoderblock(?:_\d+)?/)MlpBlock_3/(.*)", r"\1MlpBlock_0/\2"),
  (r"(probe|(?:MultiHeadDotProductAttention|LayerNorm|MlpBlock)_0/.*)",
   r"MAPHead_0/\1"),
)  # fmt: skip


def select(
  arrays: Mapping[str, np.ndarray], submodel: str, path
) -> dict[str, np.ndarray]:
  """The arrays of one ViT in the file, without what their names begin with.

  Args:
    submodel: of a file with several, "img" or "img/encoder"; "" for none.

  Raises:
    ValueError: it is not there, or the file has only submodels.
  """
  for prefix in PREFIXES:
    found = {
      name.removeprefix(prefix): x
      for name, x in arrays.items()
      if name.startswith(prefix) and name != prefix
    }
    if found:
      break
  tops = {
    name[: -len("/embedding/kernel")]
    for name in found
    if name.endswith("/embedding/kernel")
  }
  choices = ", ".join(f"{path}:{top}" for top in sorted(tops))
  if submodel:
    chosen = {
      name.removeprefix(f"{submodel}/"): x
      for name, x in found.items()
      if name.startswith(f"{submodel}/")
    }
    if not chosen or ("embedding/kernel" not in chosen and tops):
      instead = f"; there are {choices}" if choices else ""
      raise ValueError(f"{path} has no submodel {submodel!r}{instead}")
    return chosen
  if "embedding/kernel" not in found and tops:
    raise ValueError(f"{path} holds several models: give {choices}")
  return found


def to_ours(arrays: Mapping[str, np.ndarray], facts: Facts) -> dict:
  """The arrays that `select` found, under our names.

  Raises:
    ValueError: two names mean the same array.
  """
  ours: dict[str, np.ndarray] = {}
  theirs: dict[str, str] = {}
  for name, array in arrays.items():
    current = name
    for old, new in OLD_NAMES:
      current = re.sub(f"^{old}$", new, current)
    if current in ours:
      raise ValueError(
        f"{facts.path}: {theirs[current]} and {name} are the same array"
      )
    ours[current], theirs[current] = array, name
  _with_plain_stem(ours, facts)
  table = ours.get("pos_embedding")
  lacks = "cls" in ours and "cls_pos_embedding" not in ours
  if _has_class_token(table, lacks, facts):
    # Older models added the positions after the class token.
    ours["cls_pos_embedding"] = table[:, :1]
    ours["pos_embedding"] = table[:, 1:]
  return ours


def _with_plain_stem(ours, facts):
  """Vectors for the norms of a stem, which older files have as images of one
  pixel, and its only patch size."""
  for name, x in ours.items():
    if stem_parameters.is_one(name) and x.shape[:-1] == (1, 1, 1):
      if not name.endswith("/kernel"):
        ours[name] = x.reshape(-1)
  kernel = ours.get("embedding/kernel")
  stem = stem_parameters.read(ours, facts.path)
  if kernel is not None and kernel.ndim == 4 and stem != stem_lib.NoStem():
    h, w = kernel.shape[:2]
    patch_hw = h * stem.stride, w * stem.stride
    infer.add_stored_patch_size(facts, patch_hw)


def _has_class_token(table, lacks, facts):
  """Whether the first row of a position table is the class token's.

  Args:
    lacks: whether there is a class token without a position of its own.
  """
  if table is None or not lacks or table.ndim != 3:
    return False
  cells = table.shape[1]
  grid = facts.get("posemb", None)
  if grid is not None:
    return math.prod(grid) == cells - 1
  return infer.side(cells) is None and bool(infer.side(cells - 1))


def from_ours(arrays: Mapping[str, np.ndarray], model: vit.ViT) -> dict:
  """Our arrays under big_vision's names.

  Raises:
    ValueError: the model has what big_vision's ViT has not.
  """
  infer.refuse(
    PROGRAM,
    {
      "registers": model.registers,
      infer.LAYER_SCALE: model.layer_scale is not None,
      "qk_norm": model.qk_norm,
      "embedding_norm": model.embedding_norm,
      "norm_after_pool": model.norm_after_pool,
      "queries, keys and values without biases": not model.qkv_bias,
      "class token beside average pooling": model.pool == pooling.Gap(True),
      "model without positions": model.position == position.NoPosition(),
      "proj_bias=False": not model.proj_bias,
      **other_positions.ours_alone(model.position),
      **infer.seldom(model),
      # The ResNet of vit_jax, whose names big_vision's ViT shares.
      infer.STEM: False,
      "stem of early convolutions (orbax has a place for it)": not isinstance(
        model.stem, (stem_lib.NoStem, resnet.ResNet)
      ),
    },
  )
  theirs = dict(arrays)
  if "cls_pos_embedding" in theirs:
    table = theirs.get("pos_embedding")
    if table is None or not infer.side(table.shape[1]):
      raise ValueError(
        "big_vision knows a class token's position by one row more than a "
        "square of positions has, and this model's are no square"
      )
    rows = theirs.pop("cls_pos_embedding"), table
    theirs["pos_embedding"] = np.concatenate(rows, axis=1)
  return {f"params/{name}": x for name, x in theirs.items()}
