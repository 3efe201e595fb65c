"""Positions as waves: sine and cosine tables, Fourier features."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from flexivit_jax.nn.positions.position import Position

FOURIER = "pos_embedding_fourier/kernel"


def check_temperature(temperature: float) -> None:
  """Refuses what would not lengthen the waves.

  Raises:
    ValueError: it is below 1.
  """
  if not temperature >= 1:
    raise ValueError(f"temperature is {temperature}: give at least 1")


@dataclasses.dataclass(frozen=True)
class SinCos2D(Position):
  """Fixed sines and cosines of column and row, as in MoCo v3
  (arXiv:2104.02057): [sin x w, cos x w, sin y w, cos y w], any grid.

  Attributes:
    temperature: the longest wavelength is 2 pi times this, in patches.
    fractional_side: None: x and y are absolute, in patches, and grow on with
      the grid. A number: they are fractions p / side of the image's own grid,
      in [0, 1) as in NaViT (arXiv:2307.06304), times this number: every image
      is covered as a grid of so many rows and columns is.
  """

  temperature: float = 10_000.0
  fractional_side: float | None = None

  def __post_init__(self):
    check_temperature(self.temperature)
    _check_side(self.fractional_side)

  def tables(self, width):
    if width % 4 or width < 8:
      raise ValueError(
        f"sincos2d positions need a width that is a multiple of 4 and at "
        f"least 8, not {width}"
      )
    return {}

  def __call__(self, tables, coords, grid_hw, width):
    del tables
    n = width // 4
    omega = self.temperature ** -(jnp.arange(n, dtype=jnp.float32) / (n - 1))
    places = _places(coords, grid_hw, self.fractional_side)
    angles = places[..., None] * omega.reshape(1, 1, 1, n)
    y, x = angles[:, :, 0], angles[:, :, 1]
    parts = [jnp.sin(x), jnp.cos(x), jnp.sin(y), jnp.cos(y)]
    return jnp.concatenate(parts, axis=-1)


@dataclasses.dataclass(frozen=True)
class Fourier(Position):
  """Learned frequencies: [sin(x u + y v), cos(x u + y v)] for the rows u and v
  of a kernel `[2, d / 2]` (NaViT, arXiv:2307.06304, section 2.1), any grid.

  Attributes:
    fractional_side: of x and y, as in `SinCos2D`; 1 is NaViT's own fraction.
      The kernel starts as N(0, 1), which tells neighbours apart where they are
      about 1 apart: with fractions give about as many as there are patches.
  """

  fractional_side: float | None = None

  def __post_init__(self):
    _check_side(self.fractional_side)

  def tables(self, width):
    if width % 2:
      raise ValueError(f"fourier positions need an even width, not {width}")
    return {FOURIER: (nn.initializers.normal(stddev=1.0), (2, width // 2))}

  def __call__(self, tables, coords, grid_hw, width):
    del width
    yx = _places(coords, grid_hw, self.fractional_side)
    angles = jnp.einsum(
      "blx,xf->blf",
      yx[..., ::-1],
      tables[FOURIER],
      precision=jax.lax.Precision.HIGHEST,
    )
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def _check_side(side):
  if side is not None and not side > 0:
    raise ValueError(
      f"fractional_side is {side}: give more than 0, or None for absolute "
      "coordinates"
    )


def _places(coords, grid_hw, fractional_side):
  """f32 `[b or 1, l, 2]`, row and column as the waves read them."""
  places = coords.astype(jnp.float32)
  if fractional_side is None:
    return places
  return places * (fractional_side / grid_hw.astype(jnp.float32))
