"""Accelerated attention of the library: `jax.nn.dot_product_attention`."""

import dataclasses
from typing import ClassVar

import jax
from jax import export

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
    if not _taken_by_cudnn(q, k):
      return Partial(_on_xla(q, k, v, mask), None)
    out = jax.lax.platform_dependent(
      q, k, v, mask, cuda=_on_cuda, default=_on_xla
    )
    return Partial(out, None)


def _taken_by_cudnn(q, k) -> bool:
  width = q.shape[-1]
  # Its call holds all sizes, so a program for any batch cannot have it.
  fixed = not any(map(export.is_symbolic_dim, (*q.shape, *k.shape)))
  return (
    fixed
    and q.dtype.name in TYPES
    # Its gradient takes pairs of tokens.
    and q.shape[1] % 2 == k.shape[1] % 2 == 0
    and width % MULTIPLE == 0
    and width <= MOST
  )


def _on_xla(q, k, v, mask):
  return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")


def _on_cuda(q, k, v, mask):
  attend = jax.nn.dot_product_attention
  try:
    return attend(q, k, v, mask=mask, implementation="cudnn")
  except RuntimeError:  # traced on every machine, also where no cuDNN is found
    return _on_xla(q, k, v, mask)
