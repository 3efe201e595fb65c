"""A stack of transformer blocks, looped or scanned."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from flexivit_jax.nn.adaln import Modulation, modulated
from flexivit_jax.nn.block import EncoderBlock
from flexivit_jax.nn.mixers import Context
from flexivit_jax.nn.norms import norm


class Encoder(nn.Module):
  """A stack of blocks and a final norm.

  Attributes:
    block: makes one block when called with its name.
    depth: number of blocks.
    eps: of the final norm; None: no final norm.
    drop_path: stochastic depth of the last block; it rises linearly from 0.
    scan: one traced block over stacked parameters
      (`encoderblock/...` with a leading depth axis).
    rms_norm: the final norm is RMSNorm.
    conditioned: as of a block; the final norm is shifted and scaled too.
  """

  block: Callable[..., EncoderBlock]
  depth: int
  eps: float | None
  drop_path: float = 0.0
  scan: bool = False
  rms_norm: bool = False
  conditioned: bool = False

  @nn.compact
  def __call__(self, x, context: Context | None, *, train: bool):
    rates = None
    if self.drop_path and train:
      rates = jnp.linspace(0, self.drop_path, self.depth, dtype=jnp.float32)
    if self.scan:
      x = self._scanned(x, context, rates, train)
    else:
      for i in range(self.depth):
        rate = None if rates is None else rates[i]
        x = self.block(name=f"encoderblock_{i}")(x, context, rate, train)
    if self.eps is None:
      return x
    if self.conditioned:
      parts = Modulation(2, x.dtype, name="modulation")(context)
      return modulated(x, *parts, self.eps, self.rms_norm)
    return norm(self.eps, self.rms_norm, "encoder_norm")(x)

  def _scanned(self, x, context, rates, train):
    def body(block, x, rate):
      return block(x, context, rate, train), None

    blocks = nn.scan(
      body,
      variable_axes={"params": 0, "intermediates": 0},
      split_rngs={"params": True, "dropout": True},
      length=self.depth,
    )
    return blocks(self.block(name="encoderblock"), x, rates)[0]


# Far beyond any model that was trained. XLA aborts, without an exception, where
# the product of such numbers leaves 63 bits.
MAX_WIDTH, MAX_DEPTH, MAX_SIDE = 1_000_000, 1000, 1024


@dataclasses.dataclass(frozen=True)
class Size:
  """Width, depth, hidden width of the MLP and number of heads."""

  width: int
  depth: int
  mlp_dim: int
  num_heads: int

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      check_count(name, value, 1, MAX_DEPTH if name == "depth" else MAX_WIDTH)
    if self.width % self.num_heads:
      raise ValueError(
        f"width {self.width} is not a multiple of num_heads {self.num_heads}"
      )


def check_count(name, value, low, high):
  if not low <= value <= high:
    raise ValueError(f"{name} is {value}: give {low} to {high}")
