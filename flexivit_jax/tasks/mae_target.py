"""What a masked autoencoder is to answer: the pixels of patches, normalised."""

import dataclasses

import jax
import jax.numpy as jnp

from flexivit_jax.core.patch_pixels import (
  mean_over_patch,
  own_pixels,
  to_unit_range,
)
from flexivit_jax.core.places import membership
from flexivit_jax.core.tokens import Tokens

PATCH, IMAGE, PIXELS = "patch", "image", "pixels"
KINDS = (PATCH, IMAGE, PIXELS)
# Added to a variance, of pixels in [-1, 1]. As in MAE's program, by memory.
EPS = 1e-6


@dataclasses.dataclass(frozen=True)
class Target:
  """Pixels in [-1, 1] are `values * std + mean`.

  Attributes:
    values: f32 `[b, l, n]`, 0 beside a patch that is smaller than others.
    mean, std: f32 `[b or 1, l or 1, 1]`.
    centre: f32 `[b, l, 1]`, what the mean predictor answers, as a value.
    own: bool `[b or 1, l or 1, n]`, what belongs to a patch.
  """

  values: jax.Array
  mean: jax.Array
  std: jax.Array
  centre: jax.Array
  own: jax.Array

  def error(self, answer) -> jax.Array:
    """Mean squared error over each patch's own numbers, f32 `[b, l]`.

    Args:
      answer: `[b, l, n or 1]`, values.
    """
    return mean_over_patch(jnp.square(answer - self.values), self.own)


def of(tokens: Tokens, kind: str) -> Target:
  """The target of each token's patch, hidden or not.

  Args:
    kind: PATCH: the pixels less the mean of their patch, over its standard
      deviation, sqrt(variance + EPS); IMAGE: the same with mean and variance
      of the image's patches in the row; PIXELS: as they are, in [-1, 1].
  """
  own = own_pixels(tokens)
  x = to_unit_range(tokens.patches, _precise(tokens.patches.dtype))
  x = jnp.where(own, x, 0)
  if tokens.segments is not None:
    x = jnp.where(tokens.segments[..., None] > 0, x, 0)
  count = _count(own, x)

  def average(sums, kind):
    """Of sums over each patch, `[b, l, 1]`, over what the kind is about."""
    if kind == PATCH:
      return sums / count
    return _of_image(sums, tokens) / jnp.maximum(_of_image(count, tokens), 1)

  def moments(kind):
    mean = average(x.sum(axis=-1, keepdims=True), kind)
    squares = jnp.where(own, jnp.square(x - mean), 0)
    variance = average(squares.sum(axis=-1, keepdims=True), kind)
    return mean, jnp.sqrt(variance + EPS)

  if kind == PIXELS:
    centre, _ = moments(IMAGE)
    mean, std = jnp.zeros((1, 1, 1), x.dtype), jnp.ones((1, 1, 1), x.dtype)
  else:
    mean, std = moments(kind)
    centre = jnp.zeros_like(mean)
  return Target(jnp.where(own, (x - mean) / std, 0), mean, std, centre, own)


def _precise(dtype):
  return jnp.promote_types(
    jnp.float32 if dtype == jnp.uint8 else dtype, jnp.float32
  )


def _count(own, like):
  """Numbers of each patch, `[b, l, 1]`."""
  count = own.sum(axis=-1, keepdims=True).astype(like.dtype)
  return jnp.broadcast_to(count, (*like.shape[:2], 1))


def _of_image(sums, tokens: Tokens):
  """`[b, l, 1]` summed over the image of each token."""
  if tokens.segments is None:
    return jnp.broadcast_to(sums.sum(axis=1, keepdims=True), sums.shape)
  totals = by_image(sums[..., 0], tokens)
  slots = jnp.maximum(tokens.segments - 1, 0)
  slots = jnp.broadcast_to(slots, sums.shape[:2])
  return jnp.take_along_axis(totals, slots, axis=1)[..., None]


def by_image(values, tokens: Tokens, only=None) -> jax.Array:
  """`[b, l]` summed over the tokens of each image slot, `[b, e]`.

  Args:
    only: bool `[b, l]`, the tokens that count; None: all.
  """
  if only is not None:
    values = jnp.where(only, values, jnp.zeros((), values.dtype))
  if tokens.segments is None:
    return values.sum(axis=1, keepdims=True)
  member = membership(tokens.segments, tokens.num_images)
  return jnp.where(member, values[..., None], 0).sum(axis=1)
