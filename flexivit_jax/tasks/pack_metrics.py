"""How full packed rows are, measured with the loss."""

import jax
import jax.numpy as jnp

from flexivit_jax.core.metric import Metric
from flexivit_jax.core.places import membership
from flexivit_jax.core.tokens import Batch, Tokens
from flexivit_jax.nn import pooling

METRICS = (
  "pack/fill",
  "pack/slots",
  "pack/images_per_row",
  "pack/images_per_step",
  "pack/tokens_per_image",
  "pack/dropped_tokens",
)


def pack_report(batch: Batch) -> dict[str, Metric]:
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
    "pack/fill": Metric(kept, one * (b * l)),
    "pack/slots": Metric(images, one * (b * e)),
    "pack/images_per_row": Metric(images, one * b),
    "pack/images_per_step": Metric(images, one),
    "pack/tokens_per_image": Metric(kept, images),
    "pack/dropped_tokens": Metric(whole - kept, whole),
  }


# The entry of what a task measures that holds several means, one for each size.
LOSSES = "losses"


def loss_by_patch_size(loss: jax.Array, batch: Batch) -> dict[str, Metric]:
  """{LOSSES: total and count f32 `[sizes]`}, in the order of the tokens'
  patch_sizes; nothing of images of one size.

  Args:
    loss: of each image, `[b, e]`; slots of weight 0 may hold NaN.
  """
  tokens = batch.inputs
  if not isinstance(tokens, Tokens) or tokens.size_index is None:
    return {}
  sizes = jnp.arange(len(tokens.patch_sizes)).reshape(-1, 1, 1)
  weights = jnp.where(_size_of_images(tokens) == sizes, batch.weights, 0)
  totals = jnp.where(weights > 0, loss, 0) * weights
  return {LOSSES: Metric(totals.sum((1, 2)), weights.sum((1, 2)))}


def _size_of_images(tokens: Tokens) -> jax.Array:
  """i32 `[1, b, e]`, which patch size an image has; 0 in empty slots."""
  own = membership(tokens.segments, tokens.num_images)
  # All tokens of an image have the same.
  index = jnp.where(own, tokens.size_index[..., None], 0).max(axis=1)
  return index[None]
