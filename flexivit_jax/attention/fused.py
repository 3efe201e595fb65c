"""A library's kernel for GPUs: jax.experimental.pallas.ops.gpu.attention."""

import dataclasses
import math
import warnings
from typing import ClassVar

import jax.numpy as jnp

from flexivit_jax.attention.kernel import Partial

# A segment that no token has: of places that fill the last block.
FILLING = -1


@dataclasses.dataclass(frozen=True)
class Triton:
  """FlashAttention in Triton, as jax ships it, for NVIDIA GPUs.

  Among one set of tokens: queries and keys have one length and one array of
  segments. It has no lse. Where the blocks do not divide the length, places of
  a segment of their own fill it. See `Kernel`.

  Attributes:
    block_q, block_k: queries and keys at a time, forward; powers of two.
    block_backward: both, backward.
    interpret: runs on any platform, slowly, to test it.
  """

  block_q: int = 128
  block_k: int = 128
  block_backward: int = 32
  interpret: bool = False

  has_lse: ClassVar[bool] = False
  takes_other_queries: ClassVar[bool] = False
  partitionable: ClassVar[bool] = False
  kept: ClassVar[tuple[str, ...]] = ()

  def __post_init__(self):
    for name in ("block_q", "block_k", "block_backward"):
      size = getattr(self, name)
      # Smaller ones are no operands of a tensor core.
      if size < 16 or size & (size - 1):
        raise ValueError(f"{name} is a power of two from 16, not {size}")

  def check(self, platform: str, head_width: int, dtype: str) -> None:
    problem = None
    if platform not in ("gpu", "cuda") and not self.interpret:
      problem = f"needs an NVIDIA GPU, but runs on {platform}"
    elif dtype not in ("float32", "bfloat16", "float16"):
      problem = f"takes float32, bfloat16 and float16, not {dtype}"
    elif not 16 <= head_width <= 256:
      problem = f"takes heads of 16 to 256, not {head_width}"
    if problem:
      raise ValueError(f"kernel triton {problem}: take the kernel blockwise")

  def __call__(self, q, k, v, *, q_segments=None, kv_segments=None) -> Partial:
    if q_segments is not kv_segments or q.shape != k.shape:
      raise ValueError(
        "kernel triton attends among one set of tokens, with one array of "
        "segments: take the kernel blockwise for others"
      )
    b, length = q.shape[:2]
    filling = -length % math.lcm(
      self.block_q, self.block_k, self.block_backward
    )
    segments = q_segments
    if filling or segments is not None:
      if segments is None:
        segments = jnp.ones((1, length), jnp.int32)
      segments = jnp.broadcast_to(segments, (b, length))
      segments = _filled(segments, filling, FILLING)
      q, k, v = (_filled(x, filling, 0) for x in (q, k, v))
    mha, blocks = _library()
    out = mha(
      q,
      k,
      v,
      segments,
      q.shape[-1] ** -0.5,
      False,
      blocks(self.block_q, self.block_k, *(4 * (self.block_backward,))),
      interpret=self.interpret,
    )
    return Partial(out[:, :length], None)


def _filled(x, count, value):
  width = [(0, 0), (0, count), *[(0, 0)] * (x.ndim - 2)]
  return jnp.pad(x, width, constant_values=value)


def _library():
  with warnings.catch_warnings():
    # It goes with jax 0.12, which requirements leave out.
    warnings.simplefilter("ignore", DeprecationWarning)
    from jax.experimental.pallas.ops.gpu import attention
  return attention.mha, attention.BlockSizes
