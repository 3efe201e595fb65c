"""The loss at each of the patch sizes that share packed rows."""

import jax
import jax.numpy as jnp

from flexivit_jax.core.means import Mean
from flexivit_jax.core.tokens import Batch, Tokens, membership

# The entry of what a task measures that holds several means, one for each size.
LOSSES = "losses"


def loss_by_patch_size(loss: jax.Array, batch: Batch) -> dict[str, Mean]:
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
  return {LOSSES: Mean(totals.sum((1, 2)), weights.sum((1, 2)))}


def _size_of_images(tokens: Tokens) -> jax.Array:
  """i32 `[1, b, e]`, which patch size an image has; 0 in empty slots."""
  own = membership(tokens.segments, tokens.num_images)
  # All tokens of an image have the same.
  index = jnp.where(own, tokens.size_index[..., None], 0).max(axis=1)
  return index[None]
