"""Optimisers and learning-rate schedules, as optax chains."""

import dataclasses
import operator
import re
from typing import Protocol

import jax
import optax


def _check(name, value, **bounds):
  """Refuses a number out of bounds, and NaN; None is no number."""
  tests = {
    "at_least": operator.ge,
    "above": operator.gt,
    "at_most": operator.le,
    "below": operator.lt,
  }
  if value is None or all(tests[k](value, x) for k, x in bounds.items()):
    return
  wanted = " and ".join(f"{k.replace('_', ' ')} {x}" for k, x in bounds.items())
  raise ValueError(f"{name} is {value}: give a number {wanted}")


class Schedule(Protocol):
  """Learning rate over steps."""

  def build(self, peak: float, total_steps: int) -> optax.Schedule: ...


@dataclasses.dataclass(frozen=True)
class Cosine:
  """Linear warm-up from 0, then half a cosine to `final` times the peak."""

  warmup_steps: int = 0
  final: float = 0.0

  def __post_init__(self):
    _check("warmup_steps", self.warmup_steps, at_least=0)
    _check("final", self.final, at_least=0, at_most=1)

  def build(self, peak, total_steps):
    if self.warmup_steps >= total_steps:
      raise ValueError(
        f"warmup_steps {self.warmup_steps} does not fit into {total_steps} "
        "steps: lower schedule.warmup_steps, or train longer"
      )
    return optax.warmup_cosine_decay_schedule(
      init_value=0.0 if self.warmup_steps else peak,
      peak_value=peak,
      warmup_steps=self.warmup_steps,
      decay_steps=total_steps,
      end_value=peak * self.final,
    )


@dataclasses.dataclass(frozen=True)
class Constant:
  """The peak throughout."""

  def build(self, peak, total_steps):
    del total_steps
    return optax.constant_schedule(peak)


class Optimizer(Protocol):
  """What a config says of an optimiser."""

  learning_rate: float
  schedule: Schedule

  def build(self, total_steps: int) -> optax.GradientTransformation: ...


@dataclasses.dataclass(frozen=True)
class AdamW:
  """Adam with decoupled weight decay (arXiv:1711.05101), optax's convention:
  the decay is multiplied by the learning rate.

  Attributes:
    decay_pattern: parameters that decay: a regular expression that the whole
      path (such as `head/kernel`) must match.
    clip_norm: largest global norm of the gradients; None: no clipping.
    mu_dtype: of the first moment; None: that of the parameters.
  """

  learning_rate: float
  schedule: Schedule = Cosine()
  weight_decay: float = 0.0
  decay_pattern: str = ".*/kernel"
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  clip_norm: float | None = None
  mu_dtype: str | None = None

  def __post_init__(self):
    _check("learning_rate", self.learning_rate, at_least=0)
    _check("weight_decay", self.weight_decay, at_least=0)
    _check("b1", self.b1, at_least=0, below=1)
    _check("b2", self.b2, at_least=0, below=1)
    _check("eps", self.eps, above=0)
    if self.learning_rate * self.weight_decay >= 1:
      raise ValueError(
        f"weight_decay {self.weight_decay} times learning_rate "
        f"{self.learning_rate} is what a step takes off a parameter: give less "
        "than 1"
      )
    _check("clip_norm", self.clip_norm, above=0)
    try:
      re.compile(self.decay_pattern)
    except (re.error, RecursionError, OverflowError) as e:
      raise ValueError(f"decay_pattern {self.decay_pattern!r}: {e}") from e
    if self.mu_dtype not in (None, "float32", "bfloat16"):
      raise ValueError(f"mu_dtype {self.mu_dtype!r}: give float32 or bfloat16")

  def build(self, total_steps):
    pattern = re.compile(self.decay_pattern)

    def decays(params):
      mask = jax.tree_util.tree_map_with_path(
        lambda path, _: bool(pattern.fullmatch(path_name(path))), params
      )
      if self.weight_decay and not any(jax.tree.leaves(mask)):
        raise ValueError(
          f"decay_pattern {self.decay_pattern!r} matches no parameter: paths "
          "look like head/kernel"
        )
      return mask

    return optax.chain(
      *_clip(self.clip_norm),
      optax.adamw(
        self.schedule.build(self.learning_rate, total_steps),
        b1=self.b1,
        b2=self.b2,
        eps=self.eps,
        mu_dtype=self.mu_dtype,
        weight_decay=self.weight_decay,
        mask=decays,
      ),
    )


@dataclasses.dataclass(frozen=True)
class Sgd:
  """Stochastic gradient descent with momentum."""

  learning_rate: float
  schedule: Schedule = Cosine()
  momentum: float | None = 0.9
  clip_norm: float | None = None

  def __post_init__(self):
    _check("learning_rate", self.learning_rate, at_least=0)
    _check("momentum", self.momentum, at_least=0, below=1)
    _check("clip_norm", self.clip_norm, above=0)

  def build(self, total_steps):
    schedule = self.schedule.build(self.learning_rate, total_steps)
    return optax.chain(
      *_clip(self.clip_norm), optax.sgd(schedule, momentum=self.momentum)
    )


def _clip(norm):
  return () if norm is None else (optax.clip_by_global_norm(norm),)


def path_name(path) -> str:
  """A tree path as `Transformer/encoderblock_0/LayerNorm_0/scale`."""
  return jax.tree_util.keystr(path, simple=True, separator="/")
