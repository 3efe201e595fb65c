"""Mean attention distance: how far a head looks (ViT, figure 11)."""

import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.core.tokens import Tokens
from flexivit_jax.nn import pooling


@jax.jit
def attention_distance(weights: jax.Array, tokens: Tokens) -> jax.Array:
  """Mean distance, in pixels, between a patch and what it attends to.

  For each query sum_k A[q, k] |q - k|, distances between centres of patches,
  averaged over the queries of an image (arXiv:2010.11929, appendix D.7).
  Class and register tokens are left out as queries and as keys, and what
  remains of a row is scaled to sum to 1 again. The paper does not say how it
  treats the class token. Being in pixels, it compares patch sizes: attention
  that is uniform over an image of side s has 0.52 s at any of them.

  Args:
    weights: `[b, h, l', l']`, of one block; the last l tokens are patches.
    tokens: on grids or packed. Pixels are those of the image that the model
      is given, after it was resized.

  Returns:
    `[b, e, h]`, at least float32; NaN for an image slot that is empty and for
    a head that attends to no patch.
  """
  l = tokens.patches.shape[1]
  weights = weights[:, :, -l:, -l:]
  sizes = jnp.asarray(tokens.patch_sizes, weights.dtype)
  index = 0 if tokens.size_index is None else tokens.size_index
  patch_hw = sizes[index]
  if tokens.size_index is None:
    patch_hw = patch_hw[None, None]
  centres = (tokens.coords.astype(weights.dtype) + 0.5) * patch_hw
  steps = centres[:, :, None] - centres[:, None]
  distances = jnp.sqrt(jnp.square(steps).sum(axis=-1))
  kept = weights.sum(axis=-1)
  far = (weights * distances[:, None]).sum(axis=-1)
  # A row that attends to tokens in front alone says nothing of distances.
  says = kept > 0
  mean = jnp.where(says, far / jnp.where(says, kept, 1), 0)

  def of_images(x):
    x = jnp.moveaxis(x, 1, 2)
    return pooling.average(x, tokens.segments, tokens.num_images)

  # A ratio of averages: over those queries alone that say something.
  return of_images(mean) / of_images(says.astype(mean.dtype))


def mean_of_images(distances: list[np.ndarray]) -> np.ndarray:
  """`[depth, h]` for each image to their mean; NaN is left out."""
  return np.nanmean(np.stack(distances), axis=0)
