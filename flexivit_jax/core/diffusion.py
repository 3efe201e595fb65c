"""Diffusion: how noise comes into data, and how it is taken out again.

Noised data is z = signal x + sigma e, of data x and normal noise e, with
signal^2 + sigma^2 = 1, at a time of 0, the least noise, to steps - 1.
"""

import dataclasses
import functools
from collections.abc import Callable
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
    _check_steps(self.steps, least=21)

  def kept(self):
    added = np.linspace(1e-4, 0.02, self.steps) * (1000 / self.steps)
    return np.cumprod(1 - added)


@dataclasses.dataclass(frozen=True)
class CosineNoise:
  """A squared cosine of time, for small images (Nichol and Dhariwal,
  arXiv:2102.09672, equation 17): no step adds more than 0.999."""

  steps: int = 1000

  def __post_init__(self):
    _check_steps(self.steps, least=2)

  def kept(self):
    s, t = 0.008, np.arange(self.steps + 1) / self.steps
    f = np.cos((t + s) / (1 + s) * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))


def _check_steps(steps, least):
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


@dataclasses.dataclass(frozen=True)
class Sampler:
  """DDIM (Song et al., arXiv:2010.02502, equations 12 and 16).

  Attributes:
    steps: of the schedule's times, evenly spaced, with the first and the last.
    eta: share of the ancestral sampler's fresh noise: 0 draws none after the
      start, and 1 is DDPM's sampler.
    guidance: how far beyond its answer without class the network's answer is
      moved along what the class changed (classifier-free guidance, Ho and
      Salimans, arXiv:2207.12598); 1: the answer for the class alone.
    clip: the data that is predicted on the way is clipped to [-1, 1].
  """

  steps: int = 50
  eta: float = 0.0
  guidance: float = 1.0
  clip: bool = True

  def __post_init__(self):
    _check_steps(self.steps, least=1)
    if not 0 <= self.eta <= 1:
      raise ValueError(f"eta is {self.eta}: give 0 to 1")
    if not 0 <= self.guidance <= 100:
      raise ValueError(f"guidance is {self.guidance}: give 0 to 100")

  def check(self, schedule: NoiseSchedule) -> None:
    """Refuses more steps than there are times.

    Raises:
      ValueError: naming both.
    """
    if self.steps > schedule.steps:
      raise ValueError(
        f"steps is {self.steps}, and the noise has {schedule.steps} times: "
        f"give at most {schedule.steps}"
      )

  def times(self, schedule: NoiseSchedule) -> np.ndarray:
    """i32 `[steps]`, from the last time to the first; one step: the last."""
    last = schedule.steps - 1
    first = last if self.steps == 1 else 0
    times = np.linspace(last, first, self.steps)
    return np.round(times).astype(np.int32)


def guided(with_class, without, guidance: float):
  """without + guidance (with_class - without)."""
  return without + guidance * (with_class - without)


def sample(
  denoise: Callable[[jax.Array, jax.Array], jax.Array],
  start: jax.Array,
  fresh: Callable[[jax.Array], jax.Array],
  *,
  schedule: NoiseSchedule,
  predicts: Prediction,
  sampler: Sampler,
) -> jax.Array:
  """Data from noise, in one loop of the device.

  Args:
    denoise: of z and an i32 time to the network's answer, of z's shape.
    start: normal noise, f32.
    fresh: normal noise of the same shape, for a number of the step from 0.
    schedule, predicts: what the network learned by.

  Returns:
    x of start's shape, where what `denoise` answers last is taken whole.
  """
  times = sampler.times(schedule)
  kept = schedule.kept()
  now = kept[times]
  after = np.append(kept[times[1:]], 1.0)
  steps = {
    "time": jnp.asarray(times),
    "number": jnp.arange(len(times)),
    **_coefficients(now, after, sampler.eta),
  }
  body = functools.partial(_step, denoise, fresh, predicts, sampler)
  return jax.lax.scan(body, start.astype(jnp.float32), steps)[0]


def _coefficients(now, after, eta) -> dict[str, jax.Array]:
  """Of steps from one kept share to the next, f32 `[steps]`."""
  fresh = eta * np.sqrt((1 - after) / (1 - now) * (1 - now / after))
  found = {
    "signal": np.sqrt(now),
    "sigma": np.sqrt(1 - now),
    "next_signal": np.sqrt(after),
    # Rounding may leave it below 0 at eta 1.
    "next_sigma": np.sqrt(np.maximum(1 - after - fresh**2, 0)),
    "fresh": fresh,
  }
  return {name: jnp.asarray(x, jnp.float32) for name, x in found.items()}


def _step(denoise, fresh, predicts, sampler, z, step):
  level = Level(step["signal"], step["sigma"])
  answer = denoise(z, step["time"]).astype(jnp.float32)
  x = predicts.data(answer, z, level)
  if sampler.clip:
    x = jnp.clip(x, -1, 1)
  noise = (z - level.signal * x) / level.sigma
  z = step["next_signal"] * x + step["next_sigma"] * noise
  if sampler.eta:
    z = z + step["fresh"] * fresh(step["number"])
  return z, None
