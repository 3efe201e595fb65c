"""Attention rollout: how much of each token reaches another one.

Abnar and Zuidema, arXiv:2005.00928; ViT, arXiv:2010.11929, appendix D.8.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp

from flexivit_jax.analysis.activations import (
  Activations,
  attention_weights,
  probe_weights,
)
from flexivit_jax.core.tokens import Tokens
from flexivit_jax.models.vit import ViT
from flexivit_jax.nn import pooling


def rollout(layers: Iterable[jax.Array], *, residual: float = 0.5) -> jax.Array:
  """The product of all layers' attention, averaged over heads.

  Args:
    layers: weights of each block, the first one first, `[b, h, l, l]`.
    residual: share of a block's own input in its output: each matrix is
      (1 - residual) A + residual I. 0.5 is Abnar and Zuidema's; 0 is the
      product of the attention alone, as the ViT paper's text has it.

  Returns:
    `[b, l, l]`: row q says which tokens of the input the token q is made of.
    Rows sum to 1.

  Raises:
    ValueError: residual is not in 0 to 1, or there are no layers.
  """
  if not 0 <= residual <= 1:
    raise ValueError(f"residual is {residual:g}: give 0 to 1")
  product = None
  for weights in layers:
    product = _step(weights, product, residual)
  if product is None:
    raise ValueError("there are no layers to multiply")
  return product


@jax.jit
def _step(weights, before, residual):
  mean = weights.mean(axis=1)
  same = jnp.eye(mean.shape[-1], dtype=mean.dtype)[None]
  matrix = (1 - residual) * mean + residual * same
  if before is None:
    return matrix
  highest = jax.lax.Precision.HIGHEST
  return jnp.einsum("bqk,bkt->bqt", matrix, before, precision=highest)


def read_by_pool(
  model: ViT, found: Activations, tokens: Tokens, *, residual: float = 0.5
) -> jax.Array:
  """Which patches an image's pooled vector is made of, by rollout.

  The rollout's rows of what the head reads: the class token, or the mean of
  an image's patches, or the attention of the MAP head's probe, averaged over
  its heads.

  Args:
    found: with attentions, segments and, for a MAP head, probe.
    residual: as in `rollout`.

  Returns:
    `[b, e, l]`, of patches alone; sums to 1 less what class and register
    tokens have; 0 for an empty image slot, whose tokens in front attend to each
    other alone.
  """
  weights = (
    attention_weights(each, found.segments, found.segments)
    for each in found.attentions
  )
  matrix = rollout(weights, residual=residual)
  l, e = tokens.patches.shape[1], tokens.num_images
  front = matrix.shape[1] - l
  match model.pool:
    case pooling.ClassToken():
      rows = matrix[:, : front : front // e]
    case pooling.Gap():
      rows = pooling.average(matrix[:, front:], tokens.segments, e)
    case pooling.Map():
      probe = probe_weights(found, tokens).mean(axis=1)
      rows = jnp.einsum(
        "bel,blt->bet",
        probe,
        matrix[:, front:],
        precision=jax.lax.Precision.HIGHEST,
      )
  return rows[:, :, front:]
