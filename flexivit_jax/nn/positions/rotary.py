"""Rotary positions of two axes inside attention."""

import dataclasses

import jax.numpy as jnp

from flexivit_jax.nn.positions import position, waves
from flexivit_jax.nn.positions.relation import Rotation


@dataclasses.dataclass(frozen=True)
class Rotary(position.Position):
  """Queries and keys turned by angles that grow with row and column, so that
  logits depend on differences of coordinates alone (RoFormer,
  arXiv:2104.09864; along two axes as in arXiv:2403.13298).

  Of a head's 4 n channels the first half is turned by the row and the second
  by the column. In each half channels i and n + i are a pair, turned by
  p temperature^(-i / n) for i = 0..n-1. Class and register tokens are not
  turned. No parameters; coordinates are absolute and go on beyond any grid.

  Attributes:
    temperature: 100 in arXiv:2403.13298; texts, which are longer, use 10,000.
  """

  temperature: float = 100.0

  def __post_init__(self):
    waves.check_temperature(self.temperature)

  def relation(self, coords, *, prefix, head_width):
    if head_width % 4:
      raise ValueError(
        "rotary positions need heads whose width is a multiple of 4, not "
        f"{head_width}: take another width or num_heads"
      )
    n = head_width // 4
    omega = self.temperature ** -(jnp.arange(n, dtype=jnp.float32) / n)
    angles = coords.astype(jnp.float32)[..., None] * omega.reshape(1, 1, 1, n)
    front = ((0, 0), (prefix, 0), (0, 0), (0, 0))
    return Rotation(
      jnp.pad(jnp.cos(angles), front, constant_values=1),
      jnp.pad(jnp.sin(angles), front),
    )
