"""Linear maps and dropout with big_vision's parameter names."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.devices import axes
from flexivit_jax.nn.norms import as_row


def linear(x, kernel, bias, dtype, *, contract: int = 1):
  """x times kernel plus bias, on the last `contract` axes of x.

  Leading axes are merged before the product: XLA on a CPU copies and
  transposes both factors of a weight gradient that sums over two axes. But not
  where devices share the tokens of a row: merged with rows, they would be
  gathered.

  Args:
    x: `[..., *i]`.
    kernel: `[*i, *o]`.
    bias: `[*o]`, or None for none.
    dtype: of the product.

  Returns:
    `[..., *o]` in `dtype`.
  """
  rows, outs = x.shape[: x.ndim - contract], kernel.shape[contract:]
  width = int(np.prod(kernel.shape[:contract]))
  shared = axes.parts() > 1 and not axes.inside_shard_map()
  x = x.astype(dtype).reshape(*(rows if shared else (-1,)), width)
  y = x @ kernel.astype(dtype).reshape(width, -1)
  if bias is not None:
    y = y + as_row(bias.astype(dtype).reshape(-1), y)
  return y.reshape(*rows, *outs)


def dropout(module: nn.Module, rate: float, x, *, train: bool):
  """Dropout of each number, with the module's rng "dropout" in training."""
  key = None
  if train and rate and axes.inside_shard_map():
    # The devices of a sequence share the key, and have tokens of their own.
    key = module.make_rng("dropout")
    key = jax.random.fold_in(key, jax.lax.axis_index(axes.SEQ))
  return nn.Dropout(rate, deterministic=not train)(x, rng=key)


class Dense(nn.Module):
  """`linear` with its kernel and bias; maps `contract` axes to `features`."""

  features: tuple[int, ...]
  dtype: jnp.dtype
  contract: int = 1
  kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
  bias_init: nn.initializers.Initializer = nn.initializers.zeros
  use_bias: bool = True

  @nn.compact
  def __call__(self, x):
    ins = x.shape[x.ndim - self.contract :]

    def kernel_init(key, shape):
      # Fans are those of the flat matrix, not of one head.
      flat = int(np.prod(ins)), int(np.prod(self.features))
      return self.kernel_init(key, flat).reshape(shape)

    kernel = self.param("kernel", kernel_init, (*ins, *self.features))
    bias = None
    if self.use_bias:
      bias = self.param("bias", self.bias_init, self.features)
    return linear(x, kernel, bias, self.dtype, contract=self.contract)
