"""Pixels of patches: normalised, standardised, means over own pixels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.core.places import membership
from flexivit_jax.core.tokens import Tokens


def normalize(patches: jax.Array, mean, std, dtype=jnp.float32) -> jax.Array:
  """Pixels of patches as a patch embedding expects them.

  Args:
    patches: `[..., ph * pw * c]`, u8, or float in [-1, 1].
    mean, std: numpy `[c]`, of pixels in [0, 1]. 0.5 and 0.5 leave [-1, 1] as
      it is.

  Returns:
    (x - mean) / std for x in [0, 1], in `dtype`.
  """
  if (mean == 0.5).all() and (std == 0.5).all():
    return to_unit_range(patches, dtype)
  precise = jnp.promote_types(dtype, jnp.float32)
  # (x + 1) / 2 - mean over std, as one product and one sum for each pixel.
  pixels = patches.shape[-1] // len(mean)
  scale = np.tile(0.5 / std, pixels).astype(precise)
  shift = np.tile((0.5 - mean) / std, pixels).astype(precise)
  x = to_unit_range(patches, precise)
  rank = (1,) * (x.ndim - 1) + (-1,)
  return (x * scale.reshape(rank) + shift.reshape(rank)).astype(dtype)


def standardize(tokens: Tokens) -> Tokens:
  """Each image's pixels with mean 0 and variance 1, as in Pix2Struct.

  (x - mean) / max(std, 1 / sqrt(n)) over all n numbers of an image in 0 to
  255 (`tf.image.per_image_standardization`): numbers of its patches in the
  row. Hugging Face's processor takes mean and std before it resizes an image,
  so they differ by what resizing changes.

  Args:
    tokens: patches u8, or float in [-1, 1].

  Returns:
    Tokens with float patches; 0 on padding and beyond a smaller patch.
  """
  patches, e = tokens.patches, tokens.num_images
  dtype = jnp.promote_types(patches.dtype, jnp.float32)
  if patches.dtype != jnp.uint8:
    patches = (patches.astype(dtype) + 1) * 127.5
  real, owner = own_pixels(tokens), jnp.ones((1, 1, 1), dtype)
  if tokens.segments is not None:
    owner = membership(tokens.segments, e).astype(dtype)
    real = real & (tokens.segments[..., None] > 0)
  x = jnp.where(real, patches.astype(dtype), 0)
  owner = jnp.broadcast_to(owner, (*x.shape[:2], owner.shape[-1]))
  highest = jax.lax.Precision.HIGHEST

  def of_image(sums):
    """`[b, l, 1]` summed over an image, given to each of its tokens."""
    total = jnp.einsum("ble,blk->bek", owner, sums, precision=highest)
    return jnp.einsum("ble,bek->blk", owner, total, precision=highest)

  counts = jnp.broadcast_to(real, x.shape).sum(-1, keepdims=True, dtype=dtype)
  n = jnp.maximum(of_image(counts), 1)
  x = jnp.where(real, x - of_image(x.sum(-1, keepdims=True)) / n, 0)
  variance = of_image(jnp.square(x).sum(-1, keepdims=True)) / n
  x = x / jnp.maximum(jnp.sqrt(variance), 1 / jnp.sqrt(n))
  return dataclasses.replace(tokens, patches=x)


def own_pixels(tokens: Tokens) -> jax.Array:
  """bool `[b or 1, l or 1, ph * pw * c]`: what a patch of its size has."""
  width = tokens.patches.shape[-1]
  sizes = tokens.patch_sizes
  if tokens.size_index is None:
    return jnp.ones((1, 1, width), bool)
  h, w = (max(side) for side in zip(*sizes, strict=True))
  masks = np.zeros((len(sizes), h, w, width // (h * w)), bool)
  for mask, (ph, pw) in zip(masks, sizes, strict=True):
    mask[:ph, :pw] = True
  return jnp.asarray(masks.reshape(len(sizes), -1))[tokens.size_index]


def mean_over_patch(values: jax.Array, own: jax.Array) -> jax.Array:
  """Mean over each patch's own numbers.

  Args:
    values: float `[b, l, ph * pw * c]`, laid out as the patches are; what lies
      beside a smaller patch is not read.
    own: `own_pixels` of the tokens.

  Returns:
    `[b, l]`.
  """
  count = own.sum(axis=-1).astype(values.dtype)
  return jnp.where(own, values, 0).sum(axis=-1) / count


def to_unit_range(pixels: jax.Array, dtype=jnp.float32) -> jax.Array:
  """u8 pixels 0..255 to floats -1..1; floats pass as they are."""
  if pixels.dtype == jnp.uint8:
    # In float32 also for a bfloat16 model: 255 / 127.5 - 1 must be 1.
    pixels = pixels.astype(jnp.promote_types(dtype, jnp.float32)) / 127.5 - 1
  return pixels.astype(dtype)
