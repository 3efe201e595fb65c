"""Hugging Face's ViT: two sets of names, config.json, and what it computes.

GELU is exact and epsilon 1e-12 but where config.json says otherwise. The class
token has a position of its own and is what the head reads; without a head, a
pooler may follow (ours is `representation`).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flexivit_jax.checkpoints.formats import (
  infer,
  other_positions,
  parameters,
  renaming,
)
from flexivit_jax.checkpoints.formats.metadata import Facts, as_pair
from flexivit_jax.models import vit
from flexivit_jax.nn import pooling
from flexivit_jax.nn.positions import position, waves

NAME = "Hugging Face ViT safetensors"
PROGRAM = "Hugging Face's ViT"
CONVENTION = {
  "gelu": "exact",
  "eps": 1e-12,
  "image_mean": (0.5,),
  "image_std": (0.5,),
  "rms_norm": False,
}
ACTIVATIONS = {
  "gelu": "exact",
  "gelu_python": "exact",
  "gelu_new": "tanh",
  "gelu_pytorch_tanh": "tanh",
}

# Names of a layer's parts: on the hub, and in memory (transformers 5).
HUB = {
  "layer": "encoder.layer.{}",
  "query": "attention.attention.query",
  "key": "attention.attention.key",
  "value": "attention.attention.value",
  "out": "attention.output.dense",
  "fc1": "intermediate.dense",
  "fc2": "output.dense",
}
IN_MEMORY = {
  "layer": "layers.{}",
  "query": "attention.q_proj",
  "key": "attention.k_proj",
  "value": "attention.v_proj",
  "out": "attention.o_proj",
  "fc1": "mlp.fc1",
  "fc2": "mlp.fc2",
}
KERNEL = "embeddings.patch_embeddings.projection.weight"


def recognises(names) -> bool:
  return f"vit.{KERNEL}" in names or KERNEL in names


def facts_in(config: Mapping[str, Any]) -> dict:
  """What a config.json says of its model.

  Raises:
    ValueError: it is another kind of model.
  """
  kind = config.get("model_type", "vit")
  if kind != "vit":
    raise ValueError(
      f"it is of a model of type {kind!r}, and only 'vit' is known here"
    )
  act = config.get("hidden_act")
  patch = as_pair(config.get("patch_size"))
  facts = {
    "num_heads": config.get("num_attention_heads"),
    "gelu": ACTIVATIONS.get(act, act),
    "eps": config.get("layer_norm_eps"),
    "width": config.get("hidden_size"),
    "depth": config.get("num_hidden_layers"),
    "mlp_dim": config.get("intermediate_size"),
    "channels": config.get("num_channels"),
    "kernel_hw": patch,
    "qkv_bias": config.get("qkv_bias"),
    "pooler_act": config.get("pooler_act"),
  }
  image = as_pair(config.get("image_size"))
  if image is not None and patch is not None:
    facts["posemb"] = tuple(i // p for i, p in zip(image, patch))
  labels = config.get("id2label")
  if labels and labels.get("0") != "LABEL_0":
    facts["classes"] = [labels[k] for k in sorted(labels, key=int)]
  return facts


def preprocessing_in(preprocessor: Mapping[str, Any]) -> dict:
  """What a preprocessor_config.json says of the pixels.

  Raises:
    ValueError: they are scaled otherwise than to 0 to 1 before anything else.
  """
  factor = preprocessor.get("rescale_factor", 1 / 255)
  if not preprocessor.get("do_rescale", True) or abs(factor * 255 - 1) > 1e-3:
    raise ValueError(
      f"pixels are multiplied by {factor}, and only 1 / 255 is known here: "
      "give image_mean= and image_std= of pixels in 0 to 1, and put the file "
      "away"
    )
  if not preprocessor.get("do_normalize", True):
    return {"image_mean": (0.0,), "image_std": (1.0,)}
  return {
    "image_mean": preprocessor.get("image_mean"),
    "image_std": preprocessor.get("image_std"),
  }


def to_ours(arrays: Mapping[str, np.ndarray], facts: Facts) -> dict:
  """Hugging Face's arrays under our names.

  Raises:
    ValueError: an array that no ViT here has, or a fact that is missing.
  """
  prefix = "vit." if f"vit.{KERNEL}" in arrays else ""
  kernel, style = arrays[prefix + KERNEL], None
  for style in (HUB, IN_MEMORY):
    start = f"{prefix}{style['layer']}."
    hidden = arrays.get(f"{start.format(0)}{style['fc1']}.weight")
    if hidden is not None:
      break
  if hidden is None or (kernel.ndim, hidden.ndim) != (4, 2):
    raise ValueError(f"{facts.path}: no layers with the names of a ViT")
  depth = infer.count_layers(arrays, start, facts.path)
  heads = infer.num_heads(facts, len(kernel), depth, len(hidden))
  infer.add_stored_patch_size(facts, kernel.shape[2:])
  if f"{prefix}pooler.dense.weight" in arrays:
    facts.agree("pooler_act", "tanh", "only tanh is known here")
  table = arrays.get(f"{prefix}embeddings.position_embeddings")
  cells = table.shape[1] - 1 if table is not None and table.ndim == 3 else 0
  return renaming.to_ours(
    arrays, rules(depth, heads, cells, style, prefix), facts.path
  )


def rules(
  depth: int,
  heads: int,
  cells: int,
  style: Mapping[str, str] = HUB,
  prefix: str = "vit.",
):
  """The table of names and transforms.

  Args:
    cells: positions of patches.
    style: HUB or IN_MEMORY.
    prefix: "vit." in a classifier, "" in a model without a head.
  """
  block_rules = []
  for i in range(depth):
    theirs = f"{prefix}{style['layer'].format(i)}"
    ours = f"{parameters.BLOCKS}_{i}"
    attention = f"{ours}/{parameters.ATTENTION}"
    block_rules += [
      *renaming.norm(f"{theirs}.layernorm_before", f"{ours}/LayerNorm_0"),
      *(
        rule
        for name in ("query", "key", "value")
        for rule in renaming.projections(
          f"{theirs}.{style[name]}", (f"{attention}/{name}",), heads
        )
      ),
      *renaming.out_projection(
        f"{theirs}.{style['out']}", f"{attention}/out", heads
      ),
      *renaming.norm(f"{theirs}.layernorm_after", f"{ours}/LayerNorm_1"),
      *renaming.linear(
        f"{theirs}.{style['fc1']}", f"{ours}/MlpBlock_0/Dense_0"
      ),
      *renaming.linear(
        f"{theirs}.{style['fc2']}", f"{ours}/MlpBlock_0/Dense_1"
      ),
    ]
  embeddings = f"{prefix}embeddings"
  return [
    renaming.same(f"{embeddings}.cls_token", "cls"),
    renaming.rows(
      f"{embeddings}.position_embeddings",
      {"cls_pos_embedding": 1, "pos_embedding": cells},
    ),
    renaming.convolution(f"{prefix}{KERNEL}", "embedding/kernel"),
    renaming.same(
      f"{embeddings}.patch_embeddings.projection.bias", "embedding/bias"
    ),
    *block_rules,
    *renaming.norm(f"{prefix}layernorm", "Transformer/encoder_norm"),
    *renaming.linear(f"{prefix}pooler.dense", "pre_logits"),
    *renaming.linear("classifier", "head"),
  ]


def from_ours(arrays: Mapping[str, np.ndarray], model: vit.ViT) -> dict:
  """Our arrays, one by one for each layer, under the hub's names.

  A class token without a position gets zeros for it.

  Raises:
    ValueError: the model has what Hugging Face's ViT has not.
  """
  infer.refuse(
    PROGRAM,
    {
      "pooling but by its class token": model.pool != pooling.ClassToken(),
      "registers": model.registers,
      infer.LAYER_SCALE: model.layer_scale is not None,
      "qk_norm": model.qk_norm,
      "embedding_norm": model.embedding_norm,
      "norm_after_pool": model.norm_after_pool,
      "representation before a head": model.representation
      and bool(model.num_classes),
      "positions without a table": isinstance(
        model.position, (waves.SinCos2D, position.NoPosition)
      ),
      **other_positions.ours_alone(model.position),
      "proj_bias=False": not model.proj_bias,
      **infer.seldom(model),
    },
  )
  own = (
    {}
    if model.prefix_position
    else {"cls_pos_embedding": np.zeros_like(arrays["cls"])}
  )
  size, cells = model.size, arrays["pos_embedding"].shape[1]
  prefix = "vit." if model.num_classes else ""
  table = rules(size.depth, size.num_heads, cells, prefix=prefix)
  return renaming.from_ours({**arrays, **own}, table, PROGRAM)


def config(model: vit.ViT, classes=()) -> dict:
  """A config.json that transformers opens."""
  size = model.size
  others = range(len(classes), model.num_classes)
  names = [*classes, *(f"LABEL_{i}" for i in others)]
  has_head = bool(model.num_classes)
  return {
    "architectures": ["ViTForImageClassification" if has_head else "ViTModel"],
    "model_type": "vit",
    "hidden_size": size.width,
    "num_hidden_layers": size.depth,
    "num_attention_heads": size.num_heads,
    "intermediate_size": size.mlp_dim,
    "hidden_act": "gelu" if model.exact_gelu else "gelu_pytorch_tanh",
    "layer_norm_eps": model.norm_eps,
    "image_size": _one(infer.stored_image_hw(model)),
    "patch_size": _one(model.kernel_hw),
    "num_channels": model.channels,
    "qkv_bias": model.qkv_bias,
    "pooler_output_size": size.width,
    "pooler_act": "tanh",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "dtype": "float32",
    **(
      {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
      }
      if has_head
      else {}
    ),
  }


def preprocessor_config(model: vit.ViT) -> dict:
  """A preprocessor_config.json: the input size and normalisation."""
  h, w = infer.stored_image_hw(model)
  mean, std = infer.normalization(model)
  return {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": mean,
    "image_std": std,
    "resample": 2,  # PIL's bilinear
    "size": {"height": h, "width": w},
  }


def _one(hw):
  """transformers' older versions know square sizes by one number only."""
  return hw[0] if hw[0] == hw[1] else list(hw)
