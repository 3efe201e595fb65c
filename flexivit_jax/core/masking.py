"""Masking: some patches of each image, as shorter rows of tokens.

What is hidden is decided by a number for each token, so that rows of one image
and rows of many hide the same patches of an image.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.core.places import membership
from flexivit_jax.core.tokens import Tokens

# Of 10 patches of which 0.9 are hidden one is left: 10 * (1 - 0.9) is a bit
# less than 1 in floating point.
_ROUNDING = 1e-4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Masked:
  """Rows of tokens of which some are hidden.

  Attributes:
    visible: the other ones, in their order, in rows as short as all of them
      can be. On a grid there is no padding.
    places: i32 `[b, l]`, where in its row of `visible` a visible token is; of
      others any place.
    seen: bool `[b, l]`, whether a token is among `visible`.
    hidden: bool `[b, l]`, whether it is not; neither holds for padding.
  """

  visible: Tokens
  places: jax.Array
  seen: jax.Array
  hidden: jax.Array


def num_visible(patches, ratio: float):
  """How many of an image's patches are not hidden: (1 - ratio) of them, rounded
  down, and at least one.

  Args:
    patches: of an image, at least 1; a number, or an array of numpy or JAX.
    ratio: share that is hidden, more than 0 and less than 1.
  """
  if isinstance(patches, int):
    return max(1, math.floor(patches * (1 - ratio) + _ROUNDING))
  xp = np if isinstance(patches, np.ndarray) else jnp
  return xp.maximum(1, xp.floor(patches * (1 - ratio) + _ROUNDING))


def row_length(patches: int, num_images: int, ratio: float) -> int:
  """Visible tokens of a row at most.

  Args:
    patches: places for patches in the row.
    num_images: image slots of the row.
  """
  if num_images == 1:
    return num_visible(patches, ratio)
  # Each image may have one that the share alone would not give it.
  share = math.floor(patches * (1 - ratio) + _ROUNDING)
  return min(patches, share + num_images)


def hide(tokens: Tokens, numbers: jax.Array, ratio: float) -> Masked:
  """Hides all but `num_visible` patches of each image: those with the smallest
  numbers stay. Pure, of static shapes, without a loop over images.

  Args:
    numbers: f32 `[b, l]`; of equal ones the first stays.
    ratio: as for `num_visible`.
  """
  b, l = tokens.patches.shape[:2]
  e = tokens.num_images
  segments = tokens.segments
  if segments is None:
    segments = jnp.ones((1, 1), jnp.int32)
  segments = jnp.broadcast_to(segments, (b, l))
  seen = _seen(segments, numbers, e, ratio)
  own = row_length(l, e, ratio)
  # The visible ones in front, in their order; a place of any other is beyond.
  iota = jnp.arange(l, dtype=jnp.int32)[None]
  index = jnp.sort(jnp.where(seen, iota, iota + l), axis=1)[:, :own] % l
  places = jnp.maximum(jnp.cumsum(seen, axis=1, dtype=jnp.int32) - 1, 0)
  return Masked(
    _taken(tokens, index, seen),
    places,
    seen,
    ~seen & (segments > 0),
  )


def _seen(segments, numbers, num_images: int, ratio: float) -> jax.Array:
  """bool `[b, l]`, whether a token is real and stays visible."""
  b, l = segments.shape
  iota = jnp.broadcast_to(jnp.arange(l, dtype=jnp.int32)[None], (b, l))
  # Image by image, and last the padding.
  images = jnp.where(segments > 0, segments, num_images + 1)
  _, in_order, order = jax.lax.sort((images, numbers, iota), num_keys=2)
  counts = membership(segments, num_images).sum(axis=1, dtype=jnp.int32)
  wanted = num_visible(np.arange(l + 1), ratio).astype(np.int32)
  # The last that stays, of each image slot.
  last = jnp.cumsum(counts, axis=1) - counts + jnp.asarray(wanted)[counts] - 1
  last = jnp.minimum(last, l - 1)  # of empty slots
  slots = jnp.maximum(segments - 1, 0)

  def of_last(x):
    x = jnp.take_along_axis(x, last, axis=1)
    return jnp.take_along_axis(x, slots, axis=1)

  most, place = of_last(in_order), of_last(order)
  stays = (numbers < most) | ((numbers == most) & (iota <= place))
  return stays & (segments > 0)


def _taken(tokens: Tokens, index, seen) -> Tokens:
  """The tokens at `[b, v]` of each row; padding where these are not visible."""
  b = seen.shape[0]

  def take(x):
    x = jnp.broadcast_to(x, (b, *x.shape[1:]))
    at = index.reshape(*index.shape, *[1] * (x.ndim - 2))
    return jnp.take_along_axis(x, at, axis=1)

  patches, coords, grid_hw = map(
    take, (tokens.patches, tokens.coords, tokens.grid_hw)
  )
  segments, size_index = tokens.segments, tokens.size_index
  if size_index is not None:
    size_index = take(size_index)
  if segments is not None:
    real = take(seen)
    segments = jnp.where(real, take(segments), 0)
    # Nothing of what is hidden, though nobody reads it.
    patches = jnp.where(real[..., None], patches, jnp.zeros((), patches.dtype))
    coords = jnp.where(real[..., None], coords, 0)
    grid_hw = jnp.where(real[..., None], grid_hw, 1)
  return dataclasses.replace(
    tokens,
    patches=patches,
    coords=coords,
    grid_hw=grid_hw,
    segments=segments,
    size_index=size_index,
    whole_grid=None,
  )
