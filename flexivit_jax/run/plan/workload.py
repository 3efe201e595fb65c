"""A training step in numbers, and the devices that share it."""

import dataclasses
import re
from typing import NamedTuple

from flexivit_jax.attention import blockwise
from flexivit_jax.attention.kernel import Kernel
from flexivit_jax.nn.encoder import Size


class Layout(NamedTuple):
  """A mesh of devices.

  Attributes:
    data: groups of devices, each with rows of its own.
    seq: devices of a group, each with a part of every row's tokens.
  """

  data: int
  seq: int

  @property
  def devices(self) -> int:
    return self.data * self.seq

  def __str__(self) -> str:
    return f"data={self.data},seq={self.seq}"


def parse_layout(text: str) -> Layout:
  """The layout of "data=2,seq=4", in any order; what is left out is 1.

  Raises:
    ValueError: it is something else.
  """
  words = text.split(",")
  found = [re.fullmatch(r"(data|seq)=([1-9]\d{0,6})", word) for word in words]
  sizes = {x[1]: int(x[2]) for x in found if x}
  if len(sizes) < len(words):
    raise ValueError(f"{text!r} is no mesh: give data=2,seq=4 say")
  return Layout(**{"data": 1, "seq": 1} | sizes)


def layouts(devices: int) -> tuple[Layout, ...]:
  """Every mesh of so many devices, from data parallelism alone to none."""
  return tuple(
    Layout(devices // n, n) for n in range(1, devices + 1) if devices % n == 0
  )


class Weights(NamedTuple):
  """Parameters, and what belongs to them.

  Attributes:
    numbers: of the parameters, on all devices together.
    parameters: their bytes on each device.
    optimizer: bytes of the optimiser's state on each device, and of the
      parameters' moving average.
  """

  numbers: int
  parameters: int
  optimizer: int


@dataclasses.dataclass(frozen=True)
class Workload:
  """What one training step computes, whatever the devices.

  Attributes:
    rows: images, or packed rows, of a step over all devices.
    length: tokens of a row, class tokens and registers included.
    size: of the encoder.
    weights: all parameters but those of `table`.
    block_numbers: how many of their numbers are in the blocks.
    table: learned positions, one for each patch, which are cut with the tokens;
      bytes as on one device. Of no numbers where there is no such table.
    outside: multiply-adds of a row's forward pass outside the blocks, for each
      token.
    patch_numbers: of a patch's pixels.
    prefix: class tokens and registers in a row.
    itemsize: bytes of a number of the activations.
    gated_mlp: as in `ViT`.
    scan: as in `ViT`.
    remat: whether blocks are computed again backward.
    accumulate: microbatches of a step.
    kernel: of the attention.
    platform: "cpu", "gpu" or "tpu". A CPU computes dense attention one head at
      a time.
  """

  rows: int
  length: int
  size: Size
  weights: Weights
  block_numbers: int
  table: Weights
  outside: float
  patch_numbers: int
  prefix: int = 0
  itemsize: int = 4
  gated_mlp: bool = False
  scan: bool = False
  remat: bool = False
  accumulate: int = 1
  kernel: Kernel = blockwise.Blockwise()
  platform: str = "gpu"

  def of_length(self, length: int) -> "Workload":
    """The same with rows of another length; the table grows with them."""
    table = Weights(*(round(n * length / self.length) for n in self.table))
    return dataclasses.replace(self, length=length, table=table)

  @property
  def activation(self) -> int:
    """Bytes of one vector for each token of one row."""
    return self.length * self.size.width * self.itemsize

  @property
  def attention_multiply_adds(self) -> int:
    """Of a row's forward pass: logits and weighted sums, in all blocks."""
    return 2 * self.size.depth * self.length**2 * self.size.width

  @property
  def other_multiply_adds(self) -> float:
    """Of a row's forward pass: all but those."""
    d, maps = self.size.width, 3 if self.gated_mlp else 2
    block = 4 * d * d + maps * d * self.size.mlp_dim
    return self.length * (self.size.depth * block + self.outside)
