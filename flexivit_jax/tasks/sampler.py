"""Samplers of a diffusion model: DDIM with guidance."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.tasks.noise import (
  Level,
  NoiseSchedule,
  Prediction,
  check_steps,
)


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
    check_steps(self.steps, least=1)
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
