"""The stem of the published hybrids: the first stages of a ResNet."""

import dataclasses
import math

import flax.linen as nn

from flexivit_jax.nn.convolution import Convolution, group_norm
from flexivit_jax.nn.resnet_stage import Stage
from flexivit_jax.nn.stems.stem import Stem, check_widths


@dataclasses.dataclass(frozen=True)
class ResNet(Stem):
  """The first stages of a ResNet with GroupNorm and weight standardisation.

  A 7x7 convolution of stride 2, norm, ReLU and max-pooling of stride 2, then
  stages of bottleneck units, all but the first of them of stride 2. Names and
  numbers are those of the published hybrids (google-research/
  vision_transformer, vit_jax/models_resnet.py and models_vit.py).

  Attributes:
    blocks: units of each stage. (3, 4, 9) is R50 of stride 16, (2, 2, 2, 2)
      R26 and (3, 4, 6, 3) R50 of stride 32; () is the root alone, of stride 4.
    width: channels of the root. Stage i, counted from 0, makes 4 * width * 2^i.
  """

  blocks: tuple[int, ...] = (3, 4, 9)
  width: int = 64

  def __post_init__(self):
    if len(self.blocks) > 5 or not all(1 <= n <= 100 for n in self.blocks):
      raise ValueError(
        f"blocks is {self.blocks}: give at most 5 stages of 1 to 100 units, "
        "(3, 4, 9) say"
      )
    check_widths("width", (self.width,))

  @property
  def stride(self) -> int:
    return 4 * 2 ** max(0, len(self.blocks) - 1)

  def channels(self, of_image: int) -> int:
    del of_image
    if not self.blocks:
      return self.width
    return 4 * self._features(len(self.blocks) - 1)

  def _features(self, stage):
    """Channels inside its units, which make four times as many."""
    return self.width * 2**stage

  def multiply_adds(self, image_hw, channels):
    def area(stride):
      return math.prod(side // stride for side in image_hw)

    total = area(2) * 7 * 7 * channels * self.width
    ins, before = self.width, 4
    for stage, units in enumerate(self.blocks):
      n, stride = self._features(stage), 4 * 2**stage
      middle_and_out = 9 * n * n + 4 * n * n
      # The first unit takes the stride after its first convolution, and
      # projects its shortcut.
      total += area(before) * ins * n
      total += area(stride) * (middle_and_out + ins * 4 * n)
      total += (units - 1) * area(stride) * (4 * n * n + middle_and_out)
      ins, before = 4 * n, stride
    return total

  def __call__(self, images, dtype, *, remat):
    root = Convolution(self.width, 7, 2, dtype, True, name="conv_root")
    x = nn.relu(group_norm("gn_root", self.width, dtype)(root(images)))
    x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
    for stage, units in enumerate(self.blocks):
      n, stride = self._features(stage), min(2, stage + 1)
      block = Stage(n, units, stride, dtype, remat, name=f"block{stage + 1}")
      x = block(x)
    return x
