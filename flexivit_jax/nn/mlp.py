"""The MLP of a transformer block, plain or gated."""

import functools

import flax.linen as nn
import jax.numpy as jnp

from flexivit_jax.nn.linear import Dense, dropout

_bias_init = nn.initializers.normal(stddev=1e-6)


class Mlp(nn.Module):
  """Two linear maps with a GELU (arXiv:1606.08415) between them.

  Attributes:
    gated: the GELU is of a third map (`Dense_gate`), and multiplies the first
      (GEGLU, arXiv:2002.05202).
  """

  hidden: int
  dtype: jnp.dtype
  exact_gelu: bool = False
  dropout: float = 0.0
  gated: bool = False
  use_bias: bool = True

  @nn.compact
  def __call__(self, x, *, train: bool):
    dense = functools.partial(
      Dense, dtype=self.dtype, bias_init=_bias_init, use_bias=self.use_bias
    )
    hidden, d = (self.hidden,), x.shape[-1]
    y = dense(hidden, name="Dense_0")(x)
    gate = dense(hidden, name="Dense_gate")(x) if self.gated else y
    gate = nn.gelu(gate, approximate=not self.exact_gelu)
    y = gate * y if self.gated else gate
    y = dropout(self, self.dropout, y, train=train)
    return dense((d,), name="Dense_1")(y)
