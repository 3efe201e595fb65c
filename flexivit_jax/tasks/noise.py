"""Diffusion: how noise comes into data, and how it is taken out again.

Noised data is z = signal x + sigma e, of data x and normal noise e, with
signal^2 + sigma^2 = 1, at a time of 0, the least noise, to steps - 1.
"""

import dataclasses
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

MAX_STEPS = 100_000


class NoiseSchedule(Protocol):
  """How much noise there is at each time.

  Attributes:
    steps: number of times.
  """

  steps: int

  def kept(self) -> np.ndarray:
    """f64 `[steps]`, falling from near 1 to near 0: the share of z's variance
    that is data's (the papers' alpha-bar)."""


@dataclasses.dataclass(frozen=True)
class LinearNoise:
  """The variance that a step adds rises linearly from 1e-4 to 0.02 in 1,000
  steps (DDPM, arXiv:2006.11239, section 4, and DiT); of another number of
  steps each adds in proportion more or less."""

  steps: int = 1000

  def __post_init__(self):
    # With fewer a step would add more than all.
    check_steps(self.steps, least=21)

  def kept(self):
    added = np.linspace(1e-4, 0.02, self.steps) * (1000 / self.steps)
    return np.cumprod(1 - added)


@dataclasses.dataclass(frozen=True)
class CosineNoise:
  """A squared cosine of time, for small images (Nichol and Dhariwal,
  arXiv:2102.09672, equation 17): no step adds more than 0.999."""

  steps: int = 1000

  def __post_init__(self):
    check_steps(self.steps, least=2)

  def kept(self):
    s, t = 0.008, np.arange(self.steps + 1) / self.steps
    f = np.cos((t + s) / (1 + s) * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))


def check_steps(steps, least):
  if not least <= steps <= MAX_STEPS:
    raise ValueError(f"steps is {steps}: give {least} to {MAX_STEPS}")


class Level(NamedTuple):
  """What data and noise are multiplied by, f32, in the shape of z or one that
  is broadcast to it."""

  signal: jax.Array
  sigma: jax.Array


def level_at(schedule: NoiseSchedule, times: jax.Array) -> Level:
  """Of i32 times, in their shape."""
  kept = schedule.kept()
  tables = np.sqrt(kept), np.sqrt(1 - kept)
  return Level(*(jnp.asarray(x, jnp.float32)[times] for x in tables))


def add_noise(x: jax.Array, noise: jax.Array, level: Level) -> jax.Array:
  """z."""
  return level.signal * x + level.sigma * noise


class Prediction(Protocol):
  """What a network answers when it is shown z."""

  def target(self, x, noise, level: Level) -> jax.Array:
    """What it is to answer."""

  def data(self, answer, z, level: Level) -> jax.Array:
    """The x that its answer means."""


@dataclasses.dataclass(frozen=True)
class PredictNoise:
  """e, as in DDPM (arXiv:2006.11239) and DiT."""

  def target(self, x, noise, level):
    return noise

  def data(self, answer, z, level):
    return (z - level.sigma * answer) / level.signal


@dataclasses.dataclass(frozen=True)
class PredictVelocity:
  """signal e - sigma x (Salimans and Ho, arXiv:2202.00512, appendix D): about
  as hard at each time."""

  def target(self, x, noise, level):
    return level.signal * noise - level.sigma * x

  def data(self, answer, z, level):
    return level.signal * z - level.sigma * answer


@dataclasses.dataclass(frozen=True)
class PredictData:
  """x itself."""

  def target(self, x, noise, level):
    return x

  def data(self, answer, z, level):
    return answer
