"""From the vector of a token to the pixels of its patch, of any size."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from flexivit_jax.core import pi_resize
from flexivit_jax.core.tokens import Tokens
from flexivit_jax.nn import linear


class PixelHead(nn.Module):
  """A linear map to the pixels of a patch, stored at one size.

  A patch of another size gets these pixels resized as an image is: bilinear,
  and averaged where it is smaller, so that sizes agree on what they show. Where
  all patches have one size, that is done to the kernel and costs nothing.

  Attributes:
    kernel_hw: (height, width) of the patch that it is stored for, in pixels.
    channels: of the image.
    dtype: of the product.
    zero_init: the head begins at zero, and so does what it answers.
  """

  kernel_hw: tuple[int, int]
  channels: int
  dtype: jnp.dtype
  zero_init: bool = False

  @nn.compact
  def __call__(self, x, tokens: Tokens):
    """The numbers of each token's patch.

    Args:
      x: `[b, l, d]`.
      tokens: whose patches they are.

    Returns:
      `[b, l, n]` laid out as `tokens.patches` is, in float32 at least; zeros
      beside a patch that is smaller than others.
    """
    d, pixels = x.shape[-1], (*self.kernel_hw, self.channels)
    init = nn.initializers.zeros if self.zero_init else _init
    kernel = self.param("kernel", init, (d, *pixels))
    bias = self.param("bias", nn.initializers.zeros, pixels)
    if tokens.size_index is None:
      (size,) = tokens.patch_sizes
      kernel, bias = (_resized(p, size) for p in (kernel, bias[None]))
      y = linear.linear(x, kernel.reshape(d, -1), bias.reshape(-1), self.dtype)
      return _precise(y)
    y = linear.linear(x, kernel.reshape(d, -1), bias.reshape(-1), self.dtype)
    return pi_resize.resize_mixed(
      _precise(y), tokens.size_index, tokens.patch_sizes, self.kernel_hw
    )


def multiply_adds(
  width: int,
  kernel_hw: tuple[int, int],
  channels: int,
  patch_sizes: Sequence[tuple[int, int]],
) -> int:
  """Of `PixelHead`, of one token."""
  if len(patch_sizes) == 1:
    return width * math.prod(patch_sizes[0]) * channels
  h, w = map(max, zip(*patch_sizes))
  kh, kw = kernel_hw
  return channels * (width * kh * kw + h * kh * kw + h * w * kw)


def _init(key, shape, dtype=jnp.float32):
  # Fans are those of the flat matrix.
  flat = shape[0], math.prod(shape[1:])
  return nn.initializers.xavier_uniform()(key, flat, dtype).reshape(shape)


def _resized(pixels, size):
  """`[n, h, w, c]` as images of another size."""
  if pixels.shape[1:3] == tuple(size):
    return pixels
  shape = (pixels.shape[0], *size, pixels.shape[-1])
  return jax.image.resize(
    pixels,
    shape,
    "linear",
    antialias=True,
    precision=jax.lax.Precision.HIGHEST,
  )


def _precise(y):
  return y.astype(jnp.promote_types(y.dtype, jnp.float32))
