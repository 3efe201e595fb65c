"""How full packed rows are, measured with the loss."""

import jax.numpy as jnp

from flexivit_jax.core.means import Mean
from flexivit_jax.core.tokens import Batch
from flexivit_jax.nn import pooling

METRICS = (
  "pack/fill",
  "pack/slots",
  "pack/images_per_row",
  "pack/images_per_step",
  "pack/tokens_per_image",
  "pack/dropped_tokens",
)


def pack_report(batch: Batch) -> dict[str, Mean]:
  """`METRICS` of a batch of packed rows.

  - fill: real patch tokens / patch places, without class and register tokens;
  - slots: images / image slots;
  - dropped_tokens: share of the images' patches that token drop left out.
  """
  tokens = batch.inputs
  b, l = tokens.segments.shape
  e = tokens.num_images
  one = jnp.ones((), jnp.float32)
  kept = (tokens.segments > 0).sum().astype(jnp.float32)
  # Before token drop an image had its whole grid.
  cells = tokens.grid_hw.prod(axis=-1, keepdims=True).astype(jnp.float32)
  whole = pooling.average(cells, tokens.segments, e).sum()
  images = batch.weights.sum()
  return {
    "pack/fill": Mean(kept, one * (b * l)),
    "pack/slots": Mean(images, one * (b * e)),
    "pack/images_per_row": Mean(images, one * b),
    "pack/images_per_step": Mean(images, one),
    "pack/tokens_per_image": Mean(kept, images),
    "pack/dropped_tokens": Mean(whole - kept, whole),
  }
