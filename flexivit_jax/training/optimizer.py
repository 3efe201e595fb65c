"""Optimisers, as optax transformations of gradients into steps."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import optax

from flexivit_jax.core.errors import check
from flexivit_jax.training import parameter_groups
from flexivit_jax.training.parameter_groups import Group
from flexivit_jax.training.schedules import Cosine, Schedule


class Optimizer(Protocol):
  """What a config says of an optimiser."""

  learning_rate: float
  schedule: Schedule

  def build(self, total_steps: int) -> optax.GradientTransformation: ...

  def hold(self, params):
    """The parameters, without gradients of those that stay as they are."""


@dataclasses.dataclass(frozen=True)
class _Descent:
  """Steps against a direction, with decoupled weight decay.

  With the learning rate lr(t) at step t, its peak, the multiplier m of a
  parameter p and what it decays by, a step adds

    -lr(t) * m * (direction + decay * p)              decay_scale learning_rate
    -lr(t) * m * direction - lr(t) / peak * decay * p   decay_scale schedule

  The former is optax's convention and PyTorch's (arXiv:1711.05101 with one
  learning rate), the latter big_vision's: there a decay means the same at any
  learning rate, and multipliers do not change it. big_vision's decay is the
  learning rate times optax's.

  Attributes:
    learning_rate: the peak.
    weight_decay: of what decay_pattern matches.
    decay_scale: "learning_rate" or "schedule".
    decay_pattern: parameters that decay: a regular expression that the whole
      path (such as `head/kernel`) must match.
    groups: parameters with a learning rate or weight decay of their own.
    layer_decay: of the learning rate from each layer to the one below; None:
      the same for all (`parameter_groups.multipliers`).
    clip_norm: largest global norm of the gradients, of parameters that are not
      frozen; None: no clipping.
  """

  learning_rate: float
  schedule: Schedule = Cosine()
  weight_decay: float = 0.0
  decay_scale: str = "learning_rate"
  decay_pattern: str = ".*/kernel"
  groups: tuple[Group, ...] = ()
  layer_decay: float | None = None
  clip_norm: float | None = None

  def __post_init__(self):
    check("learning_rate", self.learning_rate, at_least=0)
    check("weight_decay", self.weight_decay, at_least=0)
    check("layer_decay", self.layer_decay, above=0, at_most=1)
    check("clip_norm", self.clip_norm, above=0)
    if self.decay_scale not in ("learning_rate", "schedule"):
      raise ValueError(
        f"decay_scale {self.decay_scale!r}: give learning_rate or schedule"
      )
    by_rate = self.decay_scale == "learning_rate"
    for decay in (self.weight_decay, *(g.weight_decay for g in self.groups)):
      times = f" times learning_rate {self.learning_rate}" if by_rate else ""
      if decay and decay * (self.learning_rate if by_rate else 1) >= 1:
        raise ValueError(
          f"weight_decay {decay}{times} is what a step takes off a parameter: "
          "give less than 1"
        )
    parameter_groups.check_pattern("decay_pattern", self.decay_pattern)

  def directions(self) -> tuple[optax.GradientTransformation, ...]:
    """What makes the direction of a step out of gradients, in order."""
    raise NotImplementedError

  def hold(self, params):
    stays = parameter_groups.frozen(params, self.groups)
    return jax.tree.map(
      lambda p, still: jax.lax.stop_gradient(p) if still else p, params, stays
    )

  def build(self, total_steps):
    # Refuses a schedule that does not fit before there are parameters.
    self.schedule.build(self.learning_rate, total_steps)

    def transformation(params):
      self._check_patterns(params)
      clip, descend = self._clip(), self._descend(params, total_steps)
      directions, stays = self.directions(), None
      if any(group.multiplier == 0 for group in self.groups):
        stays = parameter_groups.frozen(params, self.groups)
        if all(jax.tree.leaves(stays)):
          raise ValueError("groups freeze every parameter: nothing can learn")
        moves = jax.tree.map(lambda still: not still, stays)
        clip, directions = (
          tuple(optax.masked(each, moves) for each in steps)
          for steps in (clip, directions)
        )
      return optax.chain(*clip, optax.chain(*directions, descend))

    return optax.GradientTransformation(
      lambda params: transformation(params).init(params),
      lambda updates, state, params: transformation(params).update(
        updates, state, params
      ),
    )

  def _check_patterns(self, params):
    if self.weight_decay:
      parameter_groups.check_matches(
        params, "decay_pattern", [self.decay_pattern]
      )
    parameter_groups.check_matches(
      params, "the group", [g.pattern for g in self.groups]
    )

  def _clip(self):
    if self.clip_norm is None:
      return ()
    return (optax.clip_by_global_norm(self.clip_norm),)

  def _descend(self, params, total_steps):
    decays = parameter_groups.weight_decays(
      params, self.groups, self.weight_decay, self.decay_pattern
    )
    multipliers = parameter_groups.multipliers(
      params, self.groups, self.layer_decay
    )
    stays = parameter_groups.frozen(params, self.groups)
    peak = self.learning_rate
    rate_at = self.schedule.build(peak, total_steps)
    share_at = self.schedule.build(1.0, total_steps)

    def update(updates, state, params):
      rate, share = rate_at(state.count), share_at(state.count)

      def step(direction, p, decay, multiplier, still):
        if still:
          return jnp.zeros_like(direction)
        decayed = decay * p if decay else 0.0
        factor = _times(rate, multiplier)
        if self.decay_scale == "learning_rate":
          down = (direction + decayed if decay else direction) * -factor
        else:
          down = direction * -factor - share * decayed
        return down.astype(direction.dtype)

      down = jax.tree.map(step, updates, params, decays, multipliers, stays)
      count = optax.safe_increment(state.count)
      return down, optax.ScaleByScheduleState(count)

    return optax.GradientTransformation(
      lambda _: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), update
    )


def _times(rate, multiplier):
  return (
    rate
    if isinstance(multiplier, float) and multiplier == 1
    else (rate * multiplier)
  )


@dataclasses.dataclass(frozen=True)
class AdamW(_Descent):
  """Adam (arXiv:1412.6980) with decoupled weight decay.

  Attributes:
    mu_dtype: of the first moment; None: that of the parameters.
  """

  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  mu_dtype: str | None = None

  def __post_init__(self):
    super().__post_init__()
    check("b1", self.b1, at_least=0, below=1)
    check("b2", self.b2, at_least=0, below=1)
    check("eps", self.eps, above=0)
    if self.mu_dtype not in (None, "float32", "bfloat16"):
      raise ValueError(f"mu_dtype {self.mu_dtype!r}: give float32 or bfloat16")

  def directions(self):
    adam = optax.scale_by_adam(
      b1=self.b1, b2=self.b2, eps=self.eps, mu_dtype=self.mu_dtype
    )
    # Checkpoints of earlier versions have the step's number in the third place.
    return adam, optax.identity()


@dataclasses.dataclass(frozen=True)
class Sgd(_Descent):
  """Stochastic gradient descent with momentum."""

  momentum: float | None = 0.9

  def __post_init__(self):
    super().__post_init__()
    check("momentum", self.momentum, at_least=0, below=1)

  def directions(self):
    if self.momentum is None:
      return (optax.identity(),)
    return (optax.trace(decay=self.momentum),)


@dataclasses.dataclass(frozen=True)
class Adafactor(_Descent):
  """Adafactor (arXiv:1804.04235): second moments by row and column.

  Attributes:
    min_dim_size_to_factor: smaller axes keep a second moment by number.
    decay_rate: exponent of the second moments' decay.
    multiply_by_parameter_scale: a step is relative to the parameter's size.
    clipping_threshold: largest root mean square of a step; None: no clipping.
    momentum: None: none.
    eps: added to squared gradients.
  """

  min_dim_size_to_factor: int = 128
  decay_rate: float = 0.8
  multiply_by_parameter_scale: bool = True
  clipping_threshold: float | None = 1.0
  momentum: float | None = None
  eps: float = 1e-30

  def __post_init__(self):
    super().__post_init__()
    check("min_dim_size_to_factor", self.min_dim_size_to_factor, at_least=1)
    check("decay_rate", self.decay_rate, above=0, at_most=1)
    check("clipping_threshold", self.clipping_threshold, above=0)
    check("momentum", self.momentum, at_least=0, below=1)
    check("eps", self.eps, above=0)

  def directions(self):
    adafactor = optax.adafactor(
      learning_rate=1.0,
      min_dim_size_to_factor=self.min_dim_size_to_factor,
      decay_rate=self.decay_rate,
      multiply_by_parameter_scale=self.multiply_by_parameter_scale,
      clipping_threshold=self.clipping_threshold,
      momentum=self.momentum,
      weight_decay_rate=0.0,
      eps=self.eps,
    )
    return (optax.chain(adafactor, optax.scale(-1.0)),)  # it goes downhill


@dataclasses.dataclass(frozen=True)
class Retired(_Descent):
  """An optimiser of earlier versions: its runs open, and do not train on.

  Attributes:
    was: its name then.
  """

  was: str = ""

  def build(self, total_steps):
    raise ValueError(
      f"the optimiser {self.was} is gone. Set optimizer.name=adamw, sgd or "
      "adafactor and start from the run by init_from"
    )
