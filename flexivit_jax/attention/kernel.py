"""Softmax attention within segments: `kernel(q, k, v, ...) -> Partial`."""

import functools
from typing import ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

# log of "no key": finite, since merging two -inf gives NaN.
NO_KEY = -1e30

# What a kernel returns, by the name that
# `jax.checkpoint_policies.save_only_these_names` takes: kept, a rematerialised
# layer does not attend twice.
ATTENDED = "attended"


class Partial(NamedTuple):
  """Attention over one block of keys; partials over blocks can be merged.

  Attributes:
    out: `[b, lq, h, dh]`, in the dtype of the values.
    lse: `[b, lq, h]`, at least float32: log of the sum of exponentials. None
      where it is not offered: by a kernel of a library, or by `Ulysses`.
  """

  out: jax.Array
  lse: jax.Array | None


class Kernel(Protocol):
  """Softmax attention of queries to the keys of their own segment.

  A frozen dataclass, so that a config can name it and jit can hash it.

  Attributes:
    has_lse: whether partials have an lse, so that they can be merged.
    partitionable: whether it is made of the compiler's own operations, which
      it splits over devices by itself.
    kept: names of what a rematerialised layer keeps: the result, where it takes
      most of the layer's time.
  """

  has_lse: ClassVar[bool]
  partitionable: ClassVar[bool]
  kept: ClassVar[tuple[str, ...]]

  def __call__(self, q, k, v, *, q_segments=None, kv_segments=None) -> Partial:
    """Attention.

    Args:
      q: `[b, lq, h, dh]`; logits are q . k / sqrt(dh).
      k, v: `[b, lk, h, dh]`.
      q_segments, kv_segments: i32 `[b or 1, lq]` and `[b or 1, lk]`, both or
        neither. Equal numbers attend, padding (0) to padding, so on a whole
        row no query is without a key.

    Returns:
      Partial, differentiable in both fields. A query with no key in this block
      has out = 0 and lse = -1e30, never NaN. Products accumulate in float32.
    """
    ...


class Mergeable(Kernel, Protocol):
  """A kernel whose two passes a distribution may call block by block.

  Both return at least float32, so that sums over blocks are not rounded
  between blocks.
  """

  def forward(self, q, k, v, q_segments, kv_segments) -> Partial:
    """As `__call__`, without a derivative; out is at least float32."""
    ...

  def backward(
    self, q, k, v, total: Partial, d_total: Partial, q_segments, kv_segments
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What one block of keys adds to the gradients.

    Args:
      k, v: of this block.
      total: attention over all blocks, merged.
      d_total: its cotangent.

    Returns:
      (d_q, d_k, d_v), at least float32: d_q is this block's share.
    """
    ...


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def from_passes(
  kernel: Mergeable, q, k, v, q_segments=None, kv_segments=None
) -> Partial:
  """`__call__` of a kernel, made of its two passes."""
  return _saving(kernel, q, k, v, q_segments, kv_segments)[0]


def _saving(kernel, q, k, v, q_segments, kv_segments):
  out, lse = kernel.forward(q, k, v, q_segments, kv_segments)
  total = attended(Partial(out.astype(v.dtype), lse))
  return total, (q, k, v, q_segments, kv_segments, total)


def _gradients(kernel, saved, d_total):
  q, k, v, q_segments, kv_segments, total = saved
  gradients = kernel.backward(q, k, v, total, d_total, q_segments, kv_segments)
  return *(g.astype(x.dtype) for g, x in zip(gradients, (q, k, v))), None, None


def attended(total: Partial) -> Partial:
  """The same, named `ATTENDED`."""
  return jax.tree.map(lambda x: checkpoint_name(x, ATTENDED), total)


from_passes.defvjp(_saving, _gradients)


def merge(a: Partial, b: Partial) -> Partial:
  """Attention over the keys of both; in the dtype of `a.lse`.

  The formula of FlashAttention's outer loop (arXiv:2205.14135). Where neither
  has a key, out stays 0 and lse -1e30: log 2 is lost in it.
  """
  top = jnp.maximum(a.lse, b.lse)
  weights = [jnp.exp(x.lse - top) for x in (a, b)]
  total = weights[0] + weights[1]
  out = sum(
    x.out.astype(top.dtype) * (w / total)[..., None]
    for x, w in zip((a, b), weights)
  )
  return Partial(out, top + jnp.log(total))


def check_segments(q_segments, kv_segments) -> None:
  """Refuses one kind of segments without the other."""
  if (q_segments is None) != (kv_segments is None):
    raise ValueError("give q_segments and kv_segments, or neither")


def mask(q_segments, kv_segments):
  """Who attends to whom, bool `[b or 1, lq, lk]`; None: everyone.

  Raises:
    ValueError: if only one kind of segments is given.
  """
  check_segments(q_segments, kv_segments)
  if q_segments is None:
    return None
  return q_segments[:, :, None] == kv_segments[:, None, :]


def accumulator(x) -> jnp.dtype:
  """The dtype of sums over values like x: at least float32."""
  return jnp.promote_types(x.dtype, jnp.float32)


def product(subscripts: str, x, y, dtype):
  """einsum that accumulates in `dtype`."""
  return jnp.einsum(subscripts, x, y, preferred_element_type=dtype)
