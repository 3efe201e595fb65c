"""Random numbers that belong to an image, whatever rows and batches it is in.

What is drawn depends on the key, on the image's place in its source and on the
patch's cell alone: packed equals separate, and an evaluation does not depend on
the batch size.
"""

import zlib

import jax
import jax.numpy as jnp

from flexivit_jax.core.tokens import Tokens


def key_for(name: str, dropout_key: jax.Array | None) -> jax.Array:
  """A key for one consumer: of the step in training, else always the same.

  Args:
    dropout_key: as for `task.Task.measure`.
  """
  key = jax.random.key(0) if dropout_key is None else dropout_key
  return jax.random.fold_in(key, zlib.crc32(name.encode()))


def image_keys(key: jax.Array, index: jax.Array) -> jax.Array:
  """A key for each image slot, `[b, e]`.

  Args:
    index: i32 `[b, e]`, of the image in its source.
  """
  return _fold_in(key, index)


def of_images(keys: jax.Array) -> jax.Array:
  """f32 `[b, e]` in [0, 1), one number for each image."""
  return _elementwise(lambda key: jax.random.uniform(key, ()), keys)


def token_keys(keys: jax.Array, tokens: Tokens) -> jax.Array:
  """A key for each token, `[b, l]`, by its image's key and its cell.

  Args:
    keys: `[b, e]`, of the image slots. Padding has some key.
  """
  rows, cols = tokens.coords[..., 0], tokens.coords[..., 1]
  cells = rows * tokens.grid_hw[..., 1] + cols
  shape = tokens.patches.shape[:2]
  cells = jnp.broadcast_to(cells, shape)
  if tokens.segments is None:
    keys = jnp.broadcast_to(keys, shape)
  else:
    slots = jnp.broadcast_to(jnp.maximum(tokens.segments - 1, 0), shape)
    keys = jnp.take_along_axis(keys, slots, axis=1)
  return _elementwise(jax.random.fold_in, keys, cells)


def of_tokens(keys: jax.Array, tokens: Tokens) -> jax.Array:
  """f32 `[b, l]` in [0, 1), one number for each token; keys `[b, e]`."""
  return _elementwise(
    lambda key: jax.random.uniform(key, ()), token_keys(keys, tokens)
  )


def normal_of_tokens(keys: jax.Array, tokens: Tokens) -> jax.Array:
  """f32 `[b, l, n]` of the normal distribution, one for each number of a
  token's patch; keys `[b, e]`."""
  n = tokens.patches.shape[-1]
  return _elementwise(
    lambda key: jax.random.normal(key, (n,)), token_keys(keys, tokens)
  )


def _fold_in(key, numbers):
  return _elementwise(lambda n: jax.random.fold_in(key, n), numbers)


def _elementwise(function, *arrays):
  """Of `[b, n]`: function of each element."""
  return jax.vmap(jax.vmap(function))(*arrays)
