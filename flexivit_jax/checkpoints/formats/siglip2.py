"""The vision encoder of Hugging Face's SigLIP2 NaFlex.

Its patch embedding is a linear map of flat patches; its positions, a square
table, are resized to each image's grid (bilinear, with antialias). Attention
pooling, no head of classes. GELU is the tanh approximation, epsilon 1e-6.
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
from flexivit_jax.checkpoints.formats.metadata import Facts, as_pair
from flexivit_jax.models import vit
from flexivit_jax.nn import pooling
from flexivit_jax.nn.positions import learned_grid

NAME = "Hugging Face SigLIP2 vision encoder safetensors"
PROGRAM = "Hugging Face's SigLIP2"
CONVENTION = {
  "gelu": "tanh",
  "eps": 1e-6,
  "image_mean": (0.5,),
  "image_std": (0.5,),
  "rms_norm": False,
}

KERNEL = "embeddings.patch_embedding.weight"
TABLE = "embeddings.position_embedding.weight"
# Of a whole SigLIP2, and of its vision encoder alone.
PREFIXES = ("vision_model.", "")
# What else a whole SigLIP2 has.
OTHERS = ("text_model.", "logit_scale", "logit_bias")
KINDS = {"siglip2_vision_model": None, "siglip2": "vision_config"}

preprocessing_in = hugging_face.preprocessing_in


def recognises(names) -> bool:
  return any(
    f"{p}{KERNEL}" in names and f"{p}{TABLE}" in names for p in PREFIXES
  )


def facts_in(config: Mapping[str, Any]) -> dict:
  """What a config.json says of its model.

  Raises:
    ValueError: it is another kind of model.
  """
  config = vision_part.part_of(config, KINDS)
  act = config.get("hidden_act", "gelu_pytorch_tanh")
  return {
    # The default of transformers; older files leave out what equals it.
    "num_heads": config.get("num_attention_heads", 12),
    "gelu": hugging_face.ACTIVATIONS.get(act, act),
    "eps": config.get("layer_norm_eps", 1e-6),
    "width": config.get("hidden_size"),
    "depth": config.get("num_hidden_layers"),
    "mlp_dim": config.get("intermediate_size"),
    "channels": config.get("num_channels"),
    "kernel_hw": as_pair(config.get("patch_size")),
  }


def to_ours(arrays: Mapping[str, np.ndarray], facts: Facts) -> dict:
  """Hugging Face's arrays under our names.

  Raises:
    ValueError: an array that no ViT here has, or a fact that is missing.
  """
  arrays = vision_part.encoder_of(arrays, KERNEL, PREFIXES, OTHERS, facts)
  path, kernel = facts.path, arrays[KERNEL]
  if kernel.ndim == 4:
    raise ValueError(
      f"{path}: its patch embedding is a convolution, as in CLIP, SigLIP and "
      "SigLIP2 of one size: only SigLIP2 NaFlex is known here"
    )
  kernel = renaming.of_rank(arrays, KERNEL, 2, path)
  hidden = renaming.of_rank(arrays, "encoder.layers.0.mlp.fc1.weight", 2, path)
  depth = infer.count_layers(arrays, "encoder.layers.{}.", path)
  heads = infer.num_heads(facts, len(kernel), depth, len(hidden))
  patch = infer.flat_patch(kernel.shape[1], facts)
  infer.add_stored_patch_size(facts, patch[:2])
  return renaming.to_ours(arrays, rules(depth, heads, patch), path)


def rules(depth: int, heads: int, patch) -> list[renaming.Rule]:
  """The table of names and transforms.

  Args:
    patch: (height, width, channels) of the patch embedding.
  """
  block_rules = []
  for i in range(depth):
    theirs, ours = f"encoder.layers.{i}", f"{parameters.BLOCKS}_{i}"
    attention = f"{ours}/{parameters.ATTENTION}"
    block_rules += [
      *renaming.norm(f"{theirs}.layer_norm1", f"{ours}/LayerNorm_0"),
      *(
        rule
        for name in ("query", "key", "value")
        for rule in renaming.projections(
          f"{theirs}.self_attn.{name[0]}_proj", (f"{attention}/{name}",), heads
        )
      ),
      *renaming.out_projection(
        f"{theirs}.self_attn.out_proj", f"{attention}/out", heads
      ),
      *renaming.norm(f"{theirs}.layer_norm2", f"{ours}/LayerNorm_1"),
      *renaming.linear(f"{theirs}.mlp.fc1", f"{ours}/MlpBlock_0/Dense_0"),
      *renaming.linear(f"{theirs}.mlp.fc2", f"{ours}/MlpBlock_0/Dense_1"),
    ]
  attention = f"MAPHead_0/{parameters.ATTENTION}"
  qkv = tuple(f"{attention}/{name}" for name in ("query", "key", "value"))
  return [
    renaming.flat_patches(KERNEL, "embedding/kernel", patch),
    renaming.same("embeddings.patch_embedding.bias", "embedding/bias"),
    renaming.leading_none(TABLE, learned_grid.TABLE),
    *block_rules,
    *renaming.norm("post_layernorm", "Transformer/encoder_norm"),
    renaming.same("head.probe", "MAPHead_0/probe"),
    *renaming.projections("head.attention.in_proj", qkv, heads, dot="_"),
    *renaming.out_projection(
      "head.attention.out_proj", f"{attention}/out", heads
    ),
    *renaming.norm("head.layernorm", "MAPHead_0/LayerNorm_0"),
    *renaming.linear("head.mlp.fc1", "MAPHead_0/MlpBlock_0/Dense_0"),
    *renaming.linear("head.mlp.fc2", "MAPHead_0/MlpBlock_0/Dense_1"),
  ]


def from_ours(arrays: Mapping[str, np.ndarray], model: vit.ViT) -> dict:
  """Our arrays, one by one for each layer, under Hugging Face's names.

  Raises:
    ValueError: the model has what SigLIP2's vision encoder has not.
  """
  position, (h, w) = model.position, model.kernel_hw
  table = isinstance(position, learned_grid.LearnedGrid) and position.antialias
  infer.refuse(
    PROGRAM,
    {
      "head of classes": model.num_classes,
      "pooling but by attention": model.pool
      not in (pooling.Map(), pooling.Gap()),
      "registers": model.registers,
      infer.LAYER_SCALE: model.layer_scale is not None,
      "qk_norm": model.qk_norm,
      "qkv_bias=False": not model.qkv_bias,
      "proj_bias=False": not model.proj_bias,
      "embedding_norm": model.embedding_norm,
      "norm_after_pool": model.norm_after_pool,
      "representation": model.representation,
      "positions but a square learned grid with antialias": not table
      or position.size[0] != position.size[1],
      "patches but square ones": h != w,
      **infer.seldom(model),
    },
  )
  size = model.size
  patch = (h, w, model.channels)
  table_rules = rules(size.depth, size.num_heads, patch)
  return renaming.from_ours(arrays, table_rules, PROGRAM)


def config(model: vit.ViT, classes=()) -> dict:
  """A config.json that transformers opens."""
  del classes  # without a head
  size = model.size
  return {
    "architectures": ["Siglip2VisionModel"],
    "model_type": "siglip2_vision_model",
    "hidden_size": size.width,
    "num_hidden_layers": size.depth,
    "num_attention_heads": size.num_heads,
    "intermediate_size": size.mlp_dim,
    "hidden_act": "gelu" if model.exact_gelu else "gelu_pytorch_tanh",
    "layer_norm_eps": model.norm_eps,
    "patch_size": model.kernel_hw[0],
    "num_patches": model.position.size[0] ** 2,
    "num_channels": model.channels,
    "vision_use_head": model.pool == pooling.Map(),
    "attention_dropout": 0.0,
    "dtype": "float32",
  }


def preprocessor_config(model: vit.ViT) -> dict:
  """A preprocessor_config.json: patch size and normalisation."""
  mean, std = infer.normalization(model)
  return {
    "image_processor_type": "Siglip2ImageProcessor",
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": mean,
    "image_std": std,
    "resample": 2,  # PIL's bilinear
    "patch_size": model.kernel_hw[0],
    "max_num_patches": model.position.size[0] ** 2,
  }
