"""Attention's share of a block's cost."""

import numpy as np

from flexivit_jax.nn.encoder import Size


def attention_share(
  length: int | np.ndarray, size: Size, *, gated_mlp: bool = False
) -> float | np.ndarray:
  """Share of a block's multiply-adds that grows with the square of the length.

  These are the logits and the sums of values that they weigh, 2 l^2 d; the
  projections are 4 l d^2 and the MLP 2 l d m. So it is l / (l + 6 d) where m =
  4 d: 10 % at 512 tokens and width 768, a half at l = 6 d. Counted as in
  `nn.cost`; the patch embedding, the pool and the head are left out.

  Args:
    length: tokens of a row, those in front included.

  Raises:
    ValueError: length is below 1.
  """
  if np.min(length) < 1:
    raise ValueError(f"{np.min(length)} tokens: give at least 1")
  maps = 3 if gated_mlp else 2
  linear = 2 * size.width + maps * size.mlp_dim / 2
  return length / (length + linear)
