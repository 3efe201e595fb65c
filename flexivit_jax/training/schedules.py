"""Learning rates over steps, by name.

With n = total_steps, w steps of warm-up and c of cooldown, the learning rate of
step t (the first is 0) is

  peak * decay(t) * min(1, t / w) * min(1, (n - t) / c),

where `decay` is what a schedule's name stands for. Values at each step are
those of big_vision's schedules of the same names (`utils.py`, 2024), at the
ends too: with a warm-up step 0 has rate 0, and step w is the first at the peak;
the last step, n - 1, is the one before the end of the decay.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import optax

from flexivit_jax.core.errors import check


class Schedule(Protocol):
  """Learning rate over steps."""

  def build(self, peak: float, total_steps: int) -> optax.Schedule: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Ramps:
  """A decay between a linear warm-up from 0 and a linear cooldown to 0.

  Attributes:
    warmup_steps: until the peak.
    warmup_share: the same as a share of the training, in the place of
      warmup_steps: 0.1 is its first tenth.
    cooldown_steps, cooldown_share: the same, before the end.
  """

  warmup_steps: int = 0
  warmup_share: float | None = None
  cooldown_steps: int = 0
  cooldown_share: float | None = None

  def __post_init__(self):
    for ramp in ("warmup", "cooldown"):
      steps = getattr(self, f"{ramp}_steps")
      share = getattr(self, f"{ramp}_share")
      check(f"{ramp}_steps", steps, at_least=0)
      check(f"{ramp}_share", share, at_least=0, below=1)
      if steps and share is not None:
        raise ValueError(
          f"{ramp}_steps is {steps} and {ramp}_share {share}: give one of them"
        )

  def build(self, peak, total_steps):
    warmup = self._steps("warmup", total_steps)
    cooldown = self._steps("cooldown", total_steps)
    if warmup + cooldown > total_steps:
      raise ValueError(
        f"a warm-up of {warmup} steps and a cooldown of {cooldown} overlap in "
        f"{total_steps}: lower schedule.warmup_steps or "
        "schedule.cooldown_steps, or train longer"
      )

    def rate(step):
      step = jnp.asarray(step).astype(jnp.float32)
      factor = self._decay(step, warmup, total_steps)
      if warmup:
        factor *= jnp.minimum(1.0, step / warmup)
      if cooldown:
        # Not below 0, where somebody asks beyond the end.
        left = jnp.maximum(0.0, total_steps - step)
        factor *= jnp.minimum(1.0, left / cooldown)
      return peak * factor

    return rate

  def _steps(self, ramp, total_steps):
    steps, name = getattr(self, f"{ramp}_steps"), f"{ramp}_steps"
    share = getattr(self, f"{ramp}_share")
    if share:
      steps, name = max(1, round(share * total_steps)), f"{ramp}_share"
    if steps >= total_steps:
      value = getattr(self, name)
      raise ValueError(
        f"{name} {value} does not fit into {total_steps} steps: lower "
        f"schedule.{name}, or train longer"
      )
    return steps

  def _decay(self, step, warmup: int, total_steps: int) -> jax.Array:
    """Factor of the peak at a step."""
    raise NotImplementedError


def _progress(step, warmup, total_steps):
  """0 until the warm-up is over, 1 at the end."""
  return jnp.clip((step - warmup) / (total_steps - warmup), 0.0, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine(_Ramps):
  """Half a cosine from the peak to `final` times the peak."""

  final: float = 0.0

  def __post_init__(self):
    super().__post_init__()
    check("final", self.final, at_least=0, at_most=1)

  def _decay(self, step, warmup, total_steps):
    progress = _progress(step, warmup, total_steps)
    share = 0.5 * (1 + jnp.cos(jnp.pi * progress))
    return self.final + (1 - self.final) * share


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(_Ramps):
  """A line from the peak to `final` times the peak."""

  final: float = 0.0

  def __post_init__(self):
    super().__post_init__()
    check("final", self.final, at_least=0, at_most=1)

  def _decay(self, step, warmup, total_steps):
    progress = _progress(step, warmup, total_steps)
    return self.final + (1 - self.final) * (1 - progress)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rsqrt(_Ramps):
  """One over a square root: 1 / sqrt(1 + (t - w) / timescale).

  It does not know how long the training is, but for its cooldown, so that a run
  may be made longer. "Scaling Vision Transformers", arXiv:2106.04560, section
  3.5: timescale 10,000 and a cooldown.

  Attributes:
    timescale: steps after the warm-up until the rate is 0.71 of the peak.
  """

  timescale: float = 10_000

  def __post_init__(self):
    super().__post_init__()
    check("timescale", self.timescale, above=0)

  def _decay(self, step, warmup, total_steps):
    del total_steps
    return jax.lax.rsqrt(1 + jnp.maximum(0.0, step - warmup) / self.timescale)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant(_Ramps):
  """The peak throughout."""

  def _decay(self, step, warmup, total_steps):
    del warmup, total_steps
    return jnp.ones_like(step)
