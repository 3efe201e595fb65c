"""Accelerated attention of the library: `jax.nn.dot_product_attention`."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp

from flexivit_jax.attention import kernel
from flexivit_jax.attention.kernel import Partial

# cuDNN's flash attention (jax 0.10): types, and widths of a head on any GPU.
TYPES = ("bfloat16", "float16")
MULTIPLE, MOST = 8, 128


@dataclasses.dataclass(frozen=True)
class Fused:
  """Attention by cuDNN on NVIDIA GPUs, and by XLA elsewhere.

  cuDNN computes half precision in O(l) memory. XLA computes float32, other
  platforms, and what cuDNN does not take: odd lengths, heads wider than 128 or
  no multiple of 8. XLA holds the logits of all heads at once. Segments become a
  mask `[b or 1, 1, lq, lk]`. It has no lse, so the distribution ring cannot
  merge it. Each query needs a key of its own segment. See `Kernel`.
  """

  has_lse: ClassVar[bool] = False
  partitionable: ClassVar[bool] = False
  kept: ClassVar[tuple[str, ...]] = ()

  def __call__(self, q, k, v, *, q_segments=None, kv_segments=None) -> Partial:
    mask = kernel.mask(q_segments, kv_segments)
    mask = None if mask is None else mask[:, None]
    if not (_taken_by_cudnn(q, k) and _has_cudnn()):
      return Partial(_attend(q, k, v, mask, "xla"), None)
    out = jax.lax.platform_dependent(
      *(q, k, v, mask),
      cuda=functools.partial(_attend, implementation="cudnn"),
      default=functools.partial(_attend, implementation="xla"),
    )
    return Partial(out, None)


def _attend(q, k, v, mask, implementation):
  return jax.nn.dot_product_attention(
    q, k, v, mask=mask, implementation=implementation
  )


def _taken_by_cudnn(q, k) -> bool:
  width = q.shape[-1]
  # Its gradient takes pairs of tokens.
  even = q.shape[1] % 2 == k.shape[1] % 2 == 0
  fits = width % MULTIPLE == 0 and width <= MOST
  return q.dtype.name in TYPES and fits and even


@functools.cache
def _has_cudnn() -> bool:
  """cuDNN is installed beside jax: without it, its attention is not traced."""
  x = jax.ShapeDtypeStruct((1, 2, 1, MULTIPLE), jnp.bfloat16)
  attend = functools.partial(_attend, mask=None, implementation="cudnn")
  try:
    jax.eval_shape(attend, x, x, x)
  except RuntimeError:
    return False
  return True
