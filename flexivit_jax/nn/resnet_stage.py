"""Stages of pre-activation bottleneck units (BiT ResNet v2)."""

import flax.linen as nn
import jax.numpy as jnp

from flexivit_jax.nn.convolution import Convolution, group_norm


class Stage(nn.Module):
  """Units of a ResNet, the first of which takes the stride."""

  features: int
  units: int
  stride: int
  dtype: jnp.dtype
  remat: bool

  @nn.compact
  def __call__(self, x):
    unit = nn.remat(_Unit) if self.remat else _Unit
    for i in range(self.units):
      stride = 1 if i else self.stride
      x = unit(self.features, stride, self.dtype, name=f"unit{i + 1}")(x)
    return x


class _Unit(nn.Module):
  """A bottleneck (arXiv:1512.03385) with the stride in its 3x3 convolution.

  Fresh, it is its shortcut: the last norm's scale begins at 0.
  """

  features: int
  stride: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x):
    n, stride, out = self.features, self.stride, 4 * self.features

    def convolve(x, name, features, side, stride, **options):
      x = Convolution(
        features, side, stride, self.dtype, True, name=f"conv{name}"
      )(x)
      return group_norm(f"gn{name}", features, self.dtype, **options)(x)

    shortcut = x
    if stride > 1 or x.shape[-1] != out:
      shortcut = convolve(x, "_proj", out, 1, stride)
    y = nn.relu(convolve(x, "1", n, 1, 1))
    y = nn.relu(convolve(y, "2", n, 3, stride))
    y = convolve(y, "3", out, 1, 1, scale_init=nn.initializers.zeros)
    return nn.relu(shortcut + y)
