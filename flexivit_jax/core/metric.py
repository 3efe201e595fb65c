"""Metrics as (sum, count) pairs, divided once."""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Metric:
  """A sum and what to divide it by: means of parts never need averaging.

  Attributes:
    total: float32 scalar; or an array, of means that share their buffers.
    count: float32 scalar or array: images, or steps.
  """

  total: jax.Array
  count: jax.Array

  @classmethod
  def zero(cls) -> "Metric":
    return cls(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))

  @classmethod
  def of(cls, values, weights) -> "Metric":
    """The weighted mean of an array; entries of weight 0 may be NaN."""
    values = jnp.where(weights > 0, values, 0)
    return cls((values * weights).sum(), weights.sum())

  def at(self, index: int, length: int) -> "Metric":
    """As one of several means that share their arrays; nothing in the others.

    Returns:
      total and count of shape `[length]`.
    """
    place = jnp.arange(length) == index
    return Metric(*(jnp.where(place, x, 0) for x in (self.total, self.count)))

  def __add__(self, other: "Metric") -> "Metric":
    return Metric(self.total + other.total, self.count + other.count)

  def __float__(self) -> float:
    """total / count on the host; waits for both."""
    total, count = float(self.total), float(self.count)
    return total / count if count else 0.0

  def compute(self) -> jax.Array:
    """total / count on the device; 0 where nothing was counted."""
    return self.total / jnp.maximum(self.count, jnp.finfo(jnp.float32).tiny)
