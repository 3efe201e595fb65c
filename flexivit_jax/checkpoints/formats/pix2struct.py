"""The vision encoder of Hugging Face's Pix2Struct (arXiv:2210.03347).

T5's layers: RMSNorm, no scale of attention, no biases, a gated MLP. Positions
are a table of rows and one of columns, whose entry 0 is for padding. Pixels
are standardised, each image by its own mean and std. There is no pooling and
no head of classes: a gap is assumed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flexivit_jax.checkpoints.formats import (
  hugging_face,
  infer,
  parameters,
  renaming,
  vision_part,
)
from flexivit_jax.checkpoints.formats.metadata import Facts
from flexivit_jax.models import vit
from flexivit_jax.nn import pooling
from flexivit_jax.nn.positions import row_column
from flexivit_jax.nn.stems import stem

NAME = "Hugging Face Pix2Struct vision encoder safetensors"
PROGRAM = "Hugging Face's Pix2Struct"
CONVENTION = {"gelu": "tanh", "eps": 1e-6, "pool": "gap"}
# Of every one of them.
ARCHITECTURE = {
  "attention_scale": 1.0,
  "standardize": True,
  "posemb_read": "absolute",
  "posemb_first": 1,
}

KERNEL = "embeddings.patch_projection.weight"
ROWS = "embeddings.row_embedder.weight"
COLS = "embeddings.column_embedder.weight"
# Of a whole Pix2Struct, and of its vision encoder alone.
PREFIXES = ("encoder.", "")
# What else a whole Pix2Struct has.
OTHERS = ("decoder.",)
KINDS = {"pix2struct_vision_model": None, "pix2struct": "vision_config"}
MAX_PATCHES = 2048


def recognises(names) -> bool:
  return any(
    f"{p}{KERNEL}" in names and f"{p}{ROWS}" in names for p in PREFIXES
  )


def facts_in(config: Mapping[str, Any]) -> dict:
  """What a config.json says of its model.

  Raises:
    ValueError: it is another kind of model.
  """
  config = vision_part.part_of(config, KINDS)
  act = config.get("dense_act_fn", "gelu_new")
  return {
    # The default of transformers; older files leave out what equals it.
    "num_heads": config.get("num_attention_heads", 12),
    "gelu": hugging_face.ACTIVATIONS.get(act, act),
    "eps": config.get("layer_norm_eps", 1e-6),
    "width": config.get("hidden_size"),
    "depth": config.get("num_hidden_layers"),
    "mlp_dim": config.get("d_ff"),
  }


def preprocessing_in(preprocessor: Mapping[str, Any]) -> dict:
  """What a preprocessor_config.json says of patches and pixels.

  Raises:
    ValueError: pixels are not standardised.
  """
  if not preprocessor.get("do_normalize", True):
    raise ValueError(
      "do_normalize is false, and only standardised pixels are known here"
    )
  size = preprocessor.get("patch_size")
  if size is None:
    return {}
  return {"kernel_hw": (size["height"], size["width"])}


def to_ours(arrays: Mapping[str, np.ndarray], facts: Facts) -> dict:
  """Hugging Face's arrays under our names.

  Raises:
    ValueError: an array that no ViT here has, or a fact that is missing.
  """
  arrays = vision_part.encoder_of(arrays, KERNEL, PREFIXES, OTHERS, facts)
  path, first = facts.path, "encoder.layer.0"
  kernel, hidden, query = (
    renaming.of_rank(arrays, name, 2, path)
    for name in (
      KERNEL,
      f"{first}.mlp.wi_0.weight",
      f"{first}.attention.query.weight",
    )
  )
  depth = infer.count_layers(arrays, "encoder.layer.{}.", path)
  width = len(kernel)
  heads = infer.num_heads(facts, width, depth, len(hidden))
  if len(query) != width:
    raise ValueError(
      f"{path}: its heads hold {len(query)} numbers together, and the width is "
      f"{width}: no ViT here has other heads"
    )
  patch = infer.flat_patch(kernel.shape[1], facts)
  infer.add_stored_patch_size(facts, patch[:2])
  facts.add("the architecture", ARCHITECTURE)
  return renaming.to_ours(arrays, rules(depth, heads, patch), path)


def rules(depth: int, heads: int, patch) -> list[renaming.Rule]:
  """The table of names and transforms.

  Args:
    patch: (height, width, channels) of the patch embedding.
  """
  block_rules = []
  for i in range(depth):
    theirs, ours = f"encoder.layer.{i}", f"{parameters.BLOCKS}_{i}"
    attention, mlp = f"{ours}/{parameters.ATTENTION}", f"{ours}/MlpBlock_0"
    block_rules += [
      *renaming.norm(
        f"{theirs}.pre_attention_layer_norm", f"{ours}/LayerNorm_0"
      ),
      *(
        rule
        for name in ("query", "key", "value")
        for rule in renaming.projections(
          f"{theirs}.attention.{name}", (f"{attention}/{name}",), heads
        )
      ),
      *renaming.out_projection(
        f"{theirs}.attention.output", f"{attention}/out", heads
      ),
      *renaming.norm(f"{theirs}.pre_mlp_layer_norm", f"{ours}/LayerNorm_1"),
      # wi_0 is what the GELU is of.
      *renaming.linear(f"{theirs}.mlp.wi_0", f"{mlp}/Dense_gate"),
      *renaming.linear(f"{theirs}.mlp.wi_1", f"{mlp}/Dense_0"),
      *renaming.linear(f"{theirs}.mlp.wo", f"{mlp}/Dense_1"),
    ]
  return [
    renaming.flat_patches(KERNEL, "embedding/kernel", patch),
    renaming.same("embeddings.patch_projection.bias", "embedding/bias"),
    renaming.same(ROWS, row_column.ROW),
    renaming.same(COLS, row_column.COL),
    *block_rules,
    *renaming.norm("layernorm", "Transformer/encoder_norm"),
  ]


def from_ours(arrays: Mapping[str, np.ndarray], model: vit.ViT) -> dict:
  """Our arrays, one by one for each layer, under Hugging Face's names.

  Raises:
    ValueError: the model has what Pix2Struct's vision encoder has not.
  """
  match model.position:
    case row_column.RowColumn((rows, cols), "sum", "absolute", 1):
      square = rows == cols
    case _:
      square = False
  infer.refuse(
    PROGRAM,
    {
      "head of classes": model.num_classes,
      "pooling but an average": model.pool != pooling.Gap(),
      "registers": model.registers,
      infer.LAYER_SCALE: model.layer_scale is not None,
      "qk_norm": model.qk_norm,
      "biases in its blocks": model.qkv_bias or model.proj_bias,
      "LayerNorm": not model.rms_norm,
      "MLP without a gate": not model.gated_mlp,
      "attention_scale but 1": model.attention_scale != 1,
      "pixels that are not standardised": not model.standardize,
      "embedding_norm": model.embedding_norm,
      "norm_after_pool": model.norm_after_pool,
      "representation": model.representation,
      infer.STEM: not isinstance(model.stem, stem.NoStem),
      "positions but the sum of as many rows as columns, read absolutely from "
      "entry 1": not square,
    },
  )
  size, patch = model.size, (*model.kernel_hw, model.channels)
  table = rules(size.depth, size.num_heads, patch)
  return renaming.from_ours(arrays, table, PROGRAM)


def config(model: vit.ViT, classes=()) -> dict:
  """A config.json that transformers opens."""
  del classes  # without a head
  size, (h, w) = model.size, model.kernel_hw
  return {
    "architectures": ["Pix2StructVisionModel"],
    "model_type": "pix2struct_vision_model",
    "hidden_size": size.width,
    "num_hidden_layers": size.depth,
    "num_attention_heads": size.num_heads,
    "d_kv": size.width // size.num_heads,
    "d_ff": size.mlp_dim,
    "patch_embed_hidden_size": h * w * model.channels,
    "seq_len": model.position.size[0],
    "dense_act_fn": "gelu" if model.exact_gelu else "gelu_new",
    "layer_norm_eps": model.norm_eps,
    "dropout_rate": 0.0,
    "attention_dropout": 0.0,
    "dtype": "float32",
  }


def preprocessor_config(model: vit.ViT) -> dict:
  """A preprocessor_config.json: patch size and standardisation."""
  h, w = model.kernel_hw
  return {
    "image_processor_type": "Pix2StructImageProcessor",
    "do_convert_rgb": True,
    "do_normalize": True,
    "is_vqa": False,
    "max_patches": min(MAX_PATCHES, model.position.size[0] - 1),
    "patch_size": {"height": h, "width": w},
  }
