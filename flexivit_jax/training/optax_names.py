"""Gradient transformations of optax by their own names."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flexivit_jax.core.text import cut, listed, nearest, show

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

# Values of a config.
Option = bool | int | float | str | tuple | None


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
