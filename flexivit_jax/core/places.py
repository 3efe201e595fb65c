"""Places of tokens: membership in the image slots of a row."""

import jax
import jax.numpy as jnp


def membership(segments: jax.Array, num_images: int) -> jax.Array:
  """bool `[b, l, e]`: whether a token is of an image slot.

  Args:
    segments: `[b, l]`, 1..e; 0 is padding, of no slot.
  """
  slots = jnp.arange(1, num_images + 1, dtype=segments.dtype)
  return segments[..., None] == slots.reshape(1, 1, -1)
