"""Adaptive layer norm (DiT): modulation by an embedding of time and class."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.core.places import membership
from flexivit_jax.nn import linear as linear_lib
from flexivit_jax.nn.linear import linear
from flexivit_jax.nn.mixers import Context
from flexivit_jax.nn.norms import plain_norm


@dataclasses.dataclass(frozen=True)
class Unconditioned:
  """Nothing: norms have scales and biases that are learned."""


@dataclasses.dataclass(frozen=True)
class AdaLNZero:
  """Adaptive norms that begin as none (adaLN-Zero of DiT, arXiv:2212.09748,
  section 3.2).

  Norms have no scale and bias. In each block a linear map of SiLU of the
  image's vector says how attention and MLP are shifted, scaled and gated, and
  another one how the final norm is shifted and scaled. All of these maps begin
  at zero, so that each block begins as the identity.
  """


Conditioning = Unconditioned | AdaLNZero


def check(conditioning: Conditioning, condition, shape) -> None:
  """Refuses a condition that the model does not read, or that it lacks.

  Args:
    condition: of the call; None: not given.
    shape: that it must have, (rows, image slots, width).

  Raises:
    ValueError: with what would work.
  """
  if isinstance(conditioning, Unconditioned):
    if condition is not None:
      raise ValueError(
        "a condition was given, and the model's blocks read none: give none, "
        'or build the model with conditioning="adaln_zero"'
      )
    return
  if condition is None:
    raise ValueError(
      "the model's blocks are conditioned (adaln_zero), and no condition was "
      f"given: give one vector for each image, of shape {shape}"
    )
  if condition.shape != shape:
    raise ValueError(
      f"the condition has shape {condition.shape}: give {shape}, one vector "
      "of the model's width for each image"
    )


def refuse(conditioning: Conditioning, path) -> None:
  """Refuses a model that needs more than images.

  Args:
    path: of its checkpoint, for the error.

  Raises:
    ValueError: naming the command that uses such a model.
  """
  if isinstance(conditioning, AdaLNZero):
    raise ValueError(
      f"{path} is conditioned on time and class (adaln_zero) and does not "
      "answer images alone; it makes images: python -m "
      f"flexivit_jax sample --checkpoint {path} --output DIR"
    )


def of_tokens(x: jax.Array, segments: jax.Array | None) -> jax.Array:
  """What belongs to images, given to each of their tokens.

  Args:
    x: `[b, e, d]`.
    segments: i32 `[b or 1, l]`, 1..e, 0 is padding; None: one image per row.

  Returns:
    `[b, l, d]`, 0 on padding; `[b, 1, d]` without segments.
  """
  if segments is None:
    return x
  member = membership(segments, x.shape[1]).astype(x.dtype)
  member = jnp.broadcast_to(member, (x.shape[0], *member.shape[1:]))
  # One of them and zeros: exact.
  highest = jax.lax.Precision.HIGHEST
  return jnp.einsum("ble,bed->bld", member, x, precision=highest)


class Modulation(nn.Module):
  """The shifts, scales and gates that a condition asks for: linear maps of its
  SiLU that begin at zero (DiT, arXiv:2212.09748)."""

  count: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, context: Context):
    """`count` arrays `[b, l, d]`, or `[b, 1, d]` where a row is one image."""
    segments, condition = context.segments, context.condition
    b, e, d = condition.shape
    shape = (d, self.count, d)
    kernel = self.param("kernel", nn.initializers.zeros, shape)
    bias = self.param("bias", nn.initializers.zeros, shape[1:])
    y = linear(nn.silu(condition), kernel, bias, self.dtype)
    y = of_tokens(y.reshape(b, e, self.count * d), segments)
    return jnp.split(y, self.count, axis=-1)


def modulated(x, shift, scale, eps: float, rms: bool):
  """x normalised, scaled and shifted; shift and scale as of `Modulation`."""
  return plain_norm(x, eps, rms) * (1 + scale) + shift


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
      return linear_lib.Dense(
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
