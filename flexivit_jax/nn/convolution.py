"""Convolutions and the norm between them, of stems."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

GROUPS = 32


def standardize_weights(kernel: jax.Array) -> jax.Array:
  """Each filter with mean 0 and standard deviation 1 (arXiv:1903.10520).

  As in the published hybrids 1e-5 is added to the deviation itself, not to
  the variance.

  Args:
    kernel: `[h, w, in, out]`.
  """
  filters = (0, 1, 2)
  kernel = kernel - kernel.mean(axis=filters, keepdims=True)
  return kernel / (kernel.std(axis=filters, keepdims=True) + 1e-5)


class Convolution(nn.Module):
  """A convolution without bias, its output `stride` times smaller.

  Attributes:
    features: channels of the output.
    side: of the filters.
    standardized: by `standardize_weights`, in float32.
  """

  features: int
  side: int
  stride: int
  dtype: jnp.dtype
  standardized: bool = False

  @nn.compact
  def __call__(self, x):
    init = nn.initializers.he_normal()  # for ReLU, arXiv:1502.01852
    if self.standardized:
      init = nn.initializers.lecun_normal()
    shape = (self.side, self.side, x.shape[-1], self.features)
    kernel = self.param("kernel", init, shape)
    if self.standardized:
      kernel = standardize_weights(kernel)
    return jax.lax.conv_general_dilated(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      (self.stride, self.stride),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def group_norm(name: str, channels: int, dtype, **options) -> nn.Module:
  """GroupNorm (arXiv:1803.08494) of 32 groups, or of as many of them as divide
  the channels; its statistics are float32."""
  groups = math.gcd(GROUPS, channels)
  return nn.GroupNorm(
    groups,
    epsilon=1e-6,
    dtype=dtype,
    use_fast_variance=False,
    name=name,
    **options,
  )
