"""The stem of a few convolutions of arXiv:2106.14881."""

import dataclasses
import math

import flax.linen as nn
import jax.numpy as jnp

from flexivit_jax.nn.convolution import Convolution, group_norm
from flexivit_jax.nn.stems.stem import Stem, check_widths


@dataclasses.dataclass(frozen=True)
class EarlyConvolutions(Stem):
  """3x3 convolutions of stride 2, each with norm and ReLU (arXiv:2106.14881).

  The paper's last convolution, 1x1, is the patch embedding of one cell. Its
  BatchNorm is GroupNorm here, which needs no state; and padding is as in the
  ResNet, after the image rather than around it.

  Attributes:
    widths: channels of each. The paper's ViT_C-1GF has (24, 48, 96, 192), its
      ViT_C-4GF (48, 96, 192, 384), with one block less than the ViT.
  """

  widths: tuple[int, ...] = (24, 48, 96, 192)

  def __post_init__(self):
    if not 1 <= len(self.widths) <= 6:
      raise ValueError(
        f"widths is {self.widths}: give those of 1 to 6 convolutions, "
        "(24, 48, 96, 192) say"
      )
    check_widths("widths", self.widths)

  @property
  def stride(self) -> int:
    return 2 ** len(self.widths)

  def channels(self, of_image: int) -> int:
    del of_image
    return self.widths[-1]

  def multiply_adds(self, image_hw, channels):
    total = 0
    for i, (ins, outs) in enumerate(zip((channels, *self.widths), self.widths)):
      total += math.prod(n // 2 ** (i + 1) for n in image_hw) * 9 * ins * outs
    return total

  def __call__(self, images, dtype, *, remat):
    kind = nn.remat(_Convolutions) if remat else _Convolutions
    return kind(self.widths, dtype, name="stem")(images)


class _Convolutions(nn.Module):
  widths: tuple[int, ...]
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x):
    for i, width in enumerate(self.widths):
      x = Convolution(width, 3, 2, self.dtype, name=f"Conv_{i}")(x)
      x = nn.relu(group_norm(f"GroupNorm_{i}", width, self.dtype)(x))
    return x
