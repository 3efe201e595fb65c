"""Optimisers, as optax transformations of gradients into steps."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from flexivit_jax.core.errors import check
from flexivit_jax.core.text import cut, listed, nearest, show
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


# Values of a config.
Option = bool | int | float | str | tuple | None


@dataclasses.dataclass(frozen=True)
class Optax(_Descent):
  """One of optax's optimisers or transformations, by its name there.

  Attributes:
    transform: "lion", "scale_by_belief": `optax_names.direction`.
    options: its arguments, as in optax: {"b1": 0.95}.
  """

  transform: str = dataclasses.field(kw_only=True)
  options: Mapping[str, Option] = dataclasses.field(
    default_factory=dict, kw_only=True
  )

  def __post_init__(self):
    super().__post_init__()
    self.directions()

  def directions(self):
    return (direction(self.transform, self.options),)


# Optimisers whose update is the learning rate times something that does not
# depend on it. Others find a learning rate of their own, or need the loss.
OPTIMIZERS = (
  *("adabelief", "adadelta", "adafactor", "adagrad", "adam", "adamax", "adan"),
  *("amsgrad", "lamb", "lars", "lion", "novograd", "radam", "rmsprop", "sgd"),
  *("sign_sgd", "signum", "sm3", "yogi"),
  # Of optax.contrib.
  *("acprop", "ademamix", "adopt", "muon", "simplified_ademamix"),
)
PREFIX = "scale_by_"


def direction(
  name: str, options: Mapping[str, Option]
) -> optax.GradientTransformation:
  """What turns gradients into the direction of a step, uphill.

  An optimiser is taken with learning rate 1 and, unless the options say
  otherwise, without its own weight decay.

  Args:
    name: "lion", say, one of OPTIMIZERS; or any transformation "scale_by_..."
      that needs no more than gradients and parameters.
    options: arguments of the function of that name.

  Raises:
    ValueError: there is none of that name, it has no such option, or it cannot
      be used with these options; naming what there is.
  """
  function = _find(name)
  parameters = inspect.signature(function).parameters
  valid = [p for p in parameters if _may_be_given(p)]
  for option in options:
    if option not in valid:
      meant = nearest(option, valid)
      hint = f" (did you mean {meant!r}?)" if meant else ""
      raise ValueError(
        f"optax's {name} has no option {show(option)}{hint}; valid: "
        f"{listed(valid or ['none'])}"
      )
    _check_kind(
      f"optax's {name}: option {option}",
      value=options[option],
      default=parameters[option].default,
    )
  fixed = {}
  if not name.startswith(PREFIX):
    fixed = {"learning_rate": 1.0}
    decays = {"weight_decay", "weight_decay_rate"} & parameters.keys()
    fixed |= dict.fromkeys(decays, 0.0)
  try:
    found = function(**fixed | dict(options))
    _try(found)
  except Exception as e:
    raise ValueError(
      f"optax's {name} cannot be used with options {show(dict(options))}: "
      f"{cut(' '.join(str(e).split()), 200)}"
    ) from e
  if name.startswith(PREFIX):
    return found
  return optax.chain(found, optax.scale(-1.0))  # it goes downhill itself


def _find(name: str) -> Callable[..., Any]:
  known = name in OPTIMIZERS or name.startswith(PREFIX)
  for module in (optax, optax.contrib) if known else ():
    function = getattr(module, name, None)
    if inspect.isfunction(function):
      return function
  meant = nearest(name, (*OPTIMIZERS, *_transformations()))
  hint = f" (did you mean {meant!r}?)" if meant else ""
  raise ValueError(
    f"transform {show(name)} is none of optax's that can be used here{hint}; "
    f"valid: {', '.join(OPTIMIZERS)}, and optax's {PREFIX}..."
  )


def _transformations():
  for module in (optax, optax.contrib):
    yield from (name for name in dir(module) if name.startswith(PREFIX))


def _may_be_given(parameter: str) -> bool:
  # Learning rate and patterns belong to the config.
  return parameter != "learning_rate" and "mask" not in parameter


def _check_kind(what, *, value, default):
  """Refuses what is no number where the default is one, for instance: optax
  would compute with it."""
  if value is None:  # may switch something off
    return
  is_number = type(value) in (int, float)
  if type(default) is bool and type(value) is not bool:
    raise ValueError(f"{what} is {show(value)}: give True or False")
  if type(default) in (int, float) and not is_number:
    raise ValueError(f"{what} is {show(value)}: give a number, {default} say")


def _try(tx) -> None:
  """Refuses what needs more than gradients and parameters."""
  params = {
    "kernel": jax.ShapeDtypeStruct((2, 3), jnp.float32),
    "bias": jax.ShapeDtypeStruct((3,), jnp.float32),
  }
  state = jax.eval_shape(tx.init, params)
  jax.eval_shape(tx.update, params, state, params)
