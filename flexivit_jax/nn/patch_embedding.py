"""The patch embedding: one stored kernel for patches of every size."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.core import pi_resize
from flexivit_jax.core.patch_pixels import normalize
from flexivit_jax.core.tokens import Tokens
from flexivit_jax.nn import linear


class PatchEmbedding(nn.Module):
  """A linear map of patches, its kernel PI-resized to their size.

  Where a batch mixes patch sizes, the patches are resized to the kernel
  instead, each by its own size's matrices: <x, P w> = <P^T x, w>. One program
  serves every mixture, at the price of about two more products per patch and
  of pixels padded to the largest size.
  """

  width: int
  kernel_hw: tuple[int, int]
  channels: int
  dtype: jnp.dtype
  antialias: bool = False
  image_mean: tuple[float, ...] = (0.5,)
  image_std: tuple[float, ...] = (0.5,)

  @nn.compact
  def __call__(self, tokens: Tokens):
    kernel = self.param(
      "kernel",
      nn.initializers.lecun_normal(in_axis=(0, 1, 2)),
      (*self.kernel_hw, self.channels, self.width),
    )
    bias = self.param("bias", nn.initializers.zeros, (self.width,))
    self._check(tokens)
    if tokens.size_index is None:
      (patch_hw,) = tokens.patch_sizes
      kernel = pi_resize.pi_resize(kernel, patch_hw, antialias=self.antialias)
      return self._project(self._normalize(tokens.patches), kernel, bias)

    # Saved are the pixels as they came, not their resized float32 copies.
    @jax.checkpoint
    def project(patches, kernel, bias):
      resized = pi_resize.pi_resize_mixed(
        self._normalize(patches, jnp.promote_types(self.dtype, jnp.float32)),
        tokens.size_index,
        tokens.patch_sizes,
        self.kernel_hw,
        antialias=self.antialias,
      )
      return self._project(resized, kernel, bias)

    return project(tokens.patches, kernel, bias)

  def _check(self, tokens):
    sizes = tokens.patch_sizes
    if not sizes or (len(sizes) > 1) != (tokens.size_index is not None):
      raise ValueError(
        f"tokens have patch sizes {sizes} and "
        f"{'no ' if tokens.size_index is None else ''}size_index: several "
        "sizes need one, a single size has none"
      )
    h, w = (max(sides) for sides in zip(*sizes))
    expected = h * w * self.channels
    if tokens.patches.shape[-1] != expected:
      raise ValueError(
        f"patches hold {tokens.patches.shape[-1]} numbers, but {h}x{w} pixels "
        f"of {self.channels} channels are {expected}"
      )

  def _normalize(self, patches, dtype=None):
    mean, std = (
      np.broadcast_to(x, (self.channels,))
      for x in (self.image_mean, self.image_std)
    )
    return normalize(patches, mean, std, dtype or self.dtype)

  def _project(self, patches, kernel, bias):
    kernel = kernel.reshape(-1, self.width)
    return linear.linear(patches, kernel, bias, self.dtype)
