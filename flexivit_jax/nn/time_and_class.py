"""What a denoiser is told of an image: how noisy it is, and of which class."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.nn import layers

# Of the sines and cosines of a time, as in DiT.
FREQUENCIES, LONGEST_PERIOD = 128, 10_000
_init = nn.initializers.normal(stddev=0.02)


def sinusoids(times: jax.Array) -> jax.Array:
  """Cosines, then sines, of times `[...]`: f32 `[..., 256]`. Periods go from 2
  pi steps by equal factors towards 2 pi times LONGEST_PERIOD (arXiv:1706.03762,
  section 3.5, as in DiT)."""
  rates = LONGEST_PERIOD ** (-np.arange(FREQUENCIES) / FREQUENCIES)
  rates = rates.astype(np.float32).reshape((1,) * times.ndim + (-1,))
  angles = times[..., None].astype(jnp.float32) * rates
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimeAndClass(nn.Module):
  """One vector for each image: two linear maps of its time's sinusoids, with a
  SiLU between them, and the row of its class in a table (DiT).

  Attributes:
    width: of the vector.
    num_classes: the row of this number stands for no class; 0: no table.
  """

  width: int
  num_classes: int

  @nn.compact
  def __call__(self, times: jax.Array, labels: jax.Array) -> jax.Array:
    """i32 `[b, e]` each to f32 `[b, e, width]`."""

    def dense(name):
      return layers.Dense(
        (self.width,), jnp.dtype("float32"), kernel_init=_init, name=name
      )

    x = nn.silu(dense("time_0")(sinusoids(times)))
    x = dense("time_1")(x)
    if not self.num_classes:
      return x
    table = self.param("classes", _init, (self.num_classes + 1, self.width))
    return x + table[labels]


def multiply_adds(width: int) -> int:
  """Of `TimeAndClass`, of one image."""
  return 2 * FREQUENCIES * width + width * width
