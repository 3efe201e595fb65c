"""Activations of a model, for analysis: one forward pass, layer by layer."""

import functools
from typing import NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp

from flexivit_jax.attention.kernel import NO_KEY
from flexivit_jax.core.tokens import Tokens
from flexivit_jax.models.vit import Outputs, ViT
from flexivit_jax.nn import block as block_lib
from flexivit_jax.nn import pooling

_ATTENTION = "MultiHeadDotProductAttention_0"


class QueriesKeys(NamedTuple):
  """Queries, keys and bias, of which the weights of one attention are made.

  Attributes:
    queries: `[b, lq, h, dh]`, normalised, turned and scaled as they are used:
      logits are q . k / sqrt(dh).
    keys: `[b, lk, h, dh]`.
    bias: `[b or 1, h, lq, lk]`, added to the logits; None for none.
  """

  queries: jax.Array
  keys: jax.Array
  bias: jax.Array | None = None


class Activations(NamedTuple):
  """One forward pass, layer by layer.

  Attributes:
    attentions: of each block, from the first on; of all tokens.
    probe: of the head that pools by attention: queries are image slots, keys
      are patches. None where the model has no such head.
    segments: i32 `[b or 1, l']`, of all tokens: those in front, g for each
      image slot, then patches; None: one image per row and no padding.
    front: `[b, e * g, d]` after each block: class and register tokens.
    patches: `[b, l, d]`: what the first block gets, then after each block.
    outputs: the model's own.
  """

  attentions: tuple[QueriesKeys, ...]
  probe: QueriesKeys | None
  segments: jax.Array | None
  front: tuple[jax.Array, ...]
  patches: tuple[jax.Array, ...]
  outputs: Outputs


@functools.partial(jax.jit, static_argnames=("model", "names"))
def activations(
  model: ViT, params, tokens: Tokens, names: tuple[str, ...]
) -> Activations:
  """Those fields of `Activations` that are named; the others are None.

  Works for scanned blocks and for packed rows; nothing is dropped out.

  Raises:
    ValueError: num_classes is not set.
  """

  def of_blocks(module, method):
    return isinstance(module, block_lib.EncoderBlock) and method == "__call__"

  outputs, state = model.clone(remat=False).apply(
    {"params": params},
    tokens,
    mutable=["intermediates"],
    capture_intermediates=of_blocks,
  )
  flat = flax.traverse_util.flatten_dict(state["intermediates"], sep="/")
  # What a module sows is a tuple with an entry for every call: here one.
  sown = {name: values[0] for name, values in flat.items()}
  blocks = _blocks(sown, model)
  front = extra_tokens(model, tokens)
  residual = [block["__call__"] for block in blocks]
  found = Activations(
    attentions=tuple(_queries_keys(block, _ATTENTION) for block in blocks),
    probe=(
      _queries_keys(sown, f"MAPHead_0/{_ATTENTION}")
      if isinstance(model.pool, pooling.Map)
      else None
    ),
    segments=all_segments(model, tokens),
    front=tuple(x[:, :front] for x in residual),
    patches=(outputs.embedded, *(x[:, front:] for x in residual)),
    outputs=outputs,
  )
  return Activations(
    **{
      name: value if name in names else None
      for name, value in found._asdict().items()
    }
  )


def _blocks(sown, model):
  """Arrays that each block sowed, by the name inside the block."""

  def inside(prefix, pick=lambda x: x):
    return {
      name.removeprefix(prefix): pick(x)
      for name, x in sown.items()
      if name.startswith(prefix)
    }

  depth = range(model.size.depth)
  if model.scan:
    stacked = inside("Transformer/encoderblock/")
    return [jax.tree.map(lambda x, i=i: x[i], stacked) for i in depth]
  return [inside(f"Transformer/encoderblock_{i}/") for i in depth]


def _queries_keys(sown, module):
  return QueriesKeys(
    *(sown.get(f"{module}/{name}") for name in QueriesKeys._fields)
  )


def extra_tokens(model: ViT, tokens: Tokens) -> int:
  """Tokens in front of a row's patches: class and registers of each slot."""
  return tokens.num_images * (model.pool.class_token + model.registers)


def all_segments(model: ViT, tokens: Tokens) -> jax.Array | None:
  """Segments of all tokens of a row, those in front first; None: no packing."""
  if tokens.segments is None:
    return None
  per_slot = extra_tokens(model, tokens) // tokens.num_images
  rows = jnp.zeros((*tokens.segments.shape, 1))
  group = jnp.zeros((1, per_slot, 1))
  return pooling.prepend(rows, tokens.segments, group, tokens.num_images)[1]


def check_block(model: ViT, block: int) -> None:
  """Refuses a block that a model does not have.

  Raises:
    ValueError: naming those that it has.
  """
  depth = model.size.depth
  if not -depth <= block < depth:
    raise ValueError(
      f"block {block}: the model has {depth}, give 0 to {depth - 1}, or -1 for "
      "the last"
    )


@jax.jit
def attention_weights(
  attention: QueriesKeys, q_segments=None, kv_segments=None
) -> jax.Array:
  """Softmax over the keys of a query's own segment, at least in float32.

  Args:
    attention: of one block, or of the probe.
    q_segments, kv_segments: i32 `[b or 1, lq]` and `[b or 1, lk]`, both or
      neither, as the attention kernels take them.

  Returns:
    `[b, h, lq, lk]`; rows sum to 1, or are 0 where a query has no key: the
    probe of an empty image slot.
  """
  q, k, bias = attention
  dtype = jnp.promote_types(q.dtype, jnp.float32)
  q = q.astype(dtype) * q.shape[-1] ** -0.5
  logits = jnp.einsum(
    "bqhe,bkhe->bhqk",
    q,
    k.astype(dtype),
    precision=jax.lax.Precision.HIGHEST,
  )
  if bias is not None:
    logits = logits + bias.astype(dtype)
  if q_segments is None:
    return jax.nn.softmax(logits, axis=-1)
  same = q_segments[:, None, :, None] == kv_segments[:, None, None, :]
  weights = jax.nn.softmax(jnp.where(same, logits, NO_KEY), axis=-1)
  return jnp.where(same, weights, 0)


def block_weights(found: Activations, block: int) -> jax.Array:
  """`[b, h, l', l']`: of one block, counted from 0 or, below 0, from the last.

  Padding attends to padding, as in the model.
  """
  return attention_weights(
    found.attentions[block], found.segments, found.segments
  )


def probe_weights(found: Activations, tokens: Tokens) -> jax.Array:
  """`[b, h, e, l]`: what each image slot's probe reads of the patches."""
  if tokens.segments is None:
    return attention_weights(found.probe)
  slots = jnp.arange(1, tokens.num_images + 1, dtype=tokens.segments.dtype)
  return attention_weights(found.probe, slots[None], tokens.segments)
