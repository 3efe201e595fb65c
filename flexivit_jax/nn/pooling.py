"""From the tokens of a row to one vector for each of its images."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from flexivit_jax.core.places import membership
from flexivit_jax.devices import axes


@dataclasses.dataclass(frozen=True)
class Gap:
  """Global average pooling over an image's patches.

  Attributes:
    class_token: whether the encoder has a class token beside the patches that
      is not read, as where a ViT was pre-trained with one (MAE).
  """

  class_token: bool = False


@dataclasses.dataclass(frozen=True)
class ClassToken:
  """A learned token in front of each image's slot, read after the encoder."""

  class_token: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class Map:
  """Multihead attention pooling: a learned query attends to the patches
  (Set Transformer, arXiv:1810.00825, as in big_vision)."""

  class_token: ClassVar[bool] = False


Pool = Gap | ClassToken | Map


def average(x, segments, num_images: int):
  """Mean of x over each image's tokens.

  Args:
    x: `[b, l, d]`.
    segments: i32 `[b or 1, l]`, 0 is padding; None: one image in the row.

  Returns:
    `[b, num_images, d]`, summed in float32; 0 for an empty slot.
  """
  dtype = jnp.promote_types(x.dtype, jnp.float32)
  if segments is None:
    mean = x.astype(dtype).mean(axis=1, keepdims=True)
    return axes.mean(mean).astype(x.dtype)
  member = membership(segments, num_images).astype(dtype)
  # where, not a product: what padding holds may not be finite.
  real = jnp.where(segments[..., None] > 0, x.astype(dtype), 0)
  member = jnp.broadcast_to(member, (x.shape[0], *member.shape[1:]))
  total = axes.total(jnp.einsum("ble,bld->bed", member, real))
  count = jnp.maximum(axes.total(member.sum(axis=1)), 1)
  return (total / count[..., None]).astype(x.dtype)


def prepend(x, segments, group: jax.Array, num_images: int):
  """Puts one group of extra tokens per image slot in front of each row.

  Args:
    x: `[b, l, d]`.
    segments: as in `average`.
    group: `[1, g, d]`, class and register tokens.

  Returns:
    (`[b, e * g + l, d]`, segments of that length or None). The tokens of slot
    s get segment s, so on a grid this is the ordinary class token.
  """
  g = group.shape[1]
  groups = jnp.tile(group.astype(x.dtype), (x.shape[0], num_images, 1))
  if segments is not None:
    slots = jnp.repeat(jnp.arange(1, num_images + 1, dtype=segments.dtype), g)
    slots = jnp.broadcast_to(slots, (segments.shape[0], num_images * g))
    segments = jnp.concatenate([slots, segments], axis=1)
  return jnp.concatenate([groups, x], axis=1), segments
