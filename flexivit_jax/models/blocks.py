"""Encoder blocks as a model's fields say."""

import functools

import flax.linen as nn
import jax

from flexivit_jax.nn import adaln
from flexivit_jax.nn.block import EncoderBlock

# Fields that a model and its blocks have in common.
SHARED = (
  *("exact_gelu", "qk_norm", "qkv_bias", "layer_scale", "dropout", "rms_norm"),
  *("gated_mlp", "proj_bias", "attention_scale", "kernel", "distribution"),
)


def block(model, dtype):
  """Factory of the blocks of a `ViT` that compute in `dtype`."""
  made = EncoderBlock
  if model.remat:
    names = (*model.kernel.kept, *model.distribution.kept)
    keep = jax.checkpoint_policies.save_only_these_names
    made = nn.remat(
      made,
      prevent_cse=not model.scan,
      static_argnums=(4,),
      policy=keep(*names) if names else None,
    )
  return functools.partial(
    made,
    num_heads=model.size.num_heads,
    mlp_dim=model.size.mlp_dim,
    dtype=dtype,
    eps=model.norm_eps,
    conditioned=isinstance(model.conditioning, adaln.AdaLNZero),
    **{name: getattr(model, name) for name in SHARED},
  )
