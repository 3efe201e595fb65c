"""Builds frozen objects from plain values and overrides, and JSON from objects.

A choice is `dict(name="learned_grid", size=(7, 7))`, or just its name. The
schema is the fields and type hints of the objects.
"""

import contextlib
import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from flexivit_jax.config import file, registry, retired
from flexivit_jax.config import overrides as overrides_lib
from flexivit_jax.config.experiment import Experiment
from flexivit_jax.config.file import to_plain
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.core.text import cut, did_you_mean, listed, quoted, show


def load(
  path_and_argument: str,
  overrides: Sequence[str] = (),
  report: Callable[[str], None] = lambda line: None,
) -> Experiment:
  """Builds the experiment of `configs/NAME.py[:argument]` with overrides.

  Args:
    path_and_argument: the argument is passed to `get_config`.
    overrides: `key.sub_key=value`, values in Python's notation.
    report: called with a line for each override that changed other values too.

  Raises: ConfigError, naming the key, the value and valid ones.
  """
  raw = retired.renewed(file.read(path_and_argument), report)
  broken = None
  if overrides:
    try:
      # With every default written out, so that each of them can be changed.
      raw = to_json(_experiment(raw))
    except ConfigError as e:
      broken = e  # an override may mend it: what a placeholder is for
  drops, waiting = [], []
  for i, override in enumerate(overrides):
    try:
      dropped = overrides_lib.apply(raw, override)
    except ConfigError as e:
      if not drops:
        raise broken or e from None
      waiting.append(override)  # it may be for a default of the new name
      continue
    if dropped:
      drops.append((override, dropped, overrides[i + 1 :]))
  if waiting:
    raw = to_json(_experiment(raw))
    for override in waiting:
      overrides_lib.apply(raw, override)
  experiment = _experiment(raw)
  for drop in drops:
    if line := overrides_lib.describe_dropped(*drop, to_json(experiment)):
      report(line)
  return experiment


def from_plain(raw: Mapping[str, Any]) -> Experiment:
  """Builds the experiment of a run's config.json. Raises: as `load`."""
  return _experiment(retired.renewed(raw))


def _experiment(raw: Mapping[str, Any]) -> Experiment:
  try:
    return _record(Experiment, raw, "config")
  except _WrongType as e:
    raise ConfigError(cut(f"{e}{_remedy(e.hint, e.value)}", 600)) from None
  except ConfigError as e:
    raise ConfigError(cut(str(e), 600)) from e.__cause__


class _WrongType(ConfigError):
  """A value of another type than its hint."""

  def __init__(self, path, hint, value, *, got=False):
    text = f"{path} is {show(value)}: expected {_describe(hint)}"
    super().__init__(text + (f", got {type(value).__name__}" if got else ""))
    self.hint, self.value = hint, value


def _build(hint, value, path):
  if hint in registry.CHOICES:
    return _choice(hint, value, path)
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin in (types.UnionType, typing.Union):
    return _union(hint, value, path)
  if origin is tuple:
    return _tuple(hint, arguments, value, path)
  if dataclasses.is_dataclass(hint):
    return _record(hint, value, path)
  # By type: True is not a whole number here.
  is_number = type(value) in (int, float) and hint in (int, float)
  if type(value) is not hint and not (is_number and hint is float):
    raise _WrongType(path, hint, value, got=value is not None)
  return _number(hint, value, path) if is_number else value


LARGEST_INT = 2**63 - 1
SMALLEST_FLOAT32 = float(np.finfo(np.float32).tiny)
LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


def _number(hint, value, path):
  if isinstance(value, int) and abs(value) > LARGEST_INT:
    raise ConfigError(f"{path} is {show(value)}: give at most {LARGEST_INT}")
  if hint is int:
    return value
  if not math.isfinite(value):
    raise ConfigError(f"{path} is {value!r}: give a finite number")
  if value and not SMALLEST_FLOAT32 <= abs(value) <= LARGEST_FLOAT32:
    raise ConfigError(
      f"{path} is {value!r}: give 0, or a size from {SMALLEST_FLOAT32:.3g} to "
      f"{LARGEST_FLOAT32:.3g}, what float32 can hold"
    )
  return float(value)


def _choice(hint, value, path):
  table = registry.CHOICES[hint]
  fields = {"name": value} if isinstance(value, str) else value
  names = quoted(table)
  if not isinstance(fields, Mapping) or "name" not in fields:
    raise ConfigError(f"{path} is {show(value)}: give a name, one of {names}")
  fields = dict(fields)
  name = fields.pop("name")
  if not isinstance(name, str) or name not in table:
    close = did_you_mean(name, table)
    raise ConfigError(f"{path} has no {show(name)}{close}; valid: {names}")
  chosen = table[name]
  if isinstance(chosen, type):
    return _record(chosen, fields, path)
  ready = {f.name: getattr(chosen, f.name) for f in _fields(type(chosen))}
  return _record(type(chosen), ready | fields, path)


def _record(cls, value, path):
  fields = {f.name: f for f in _fields(cls)}
  hints = typing.get_type_hints(cls)
  if not isinstance(value, Mapping):
    raise ConfigError(
      f"{path} is {show(value)}: expected its fields, {listed(fields)}"
    )
  for key in value:
    if key not in fields:
      flat = overrides_lib.flatten(value)
      below = [k for k in flat if str(k).endswith(f".{key}")]
      hint = did_you_mean((below or [key])[0], {*fields, *below})
      raise ConfigError(
        f"{path}.{cut(str(key), 100)}: no such key{hint}; "
        f"valid: {listed(fields or ['none'])}"
      )
  built = {
    key: _build(hints[key], item, f"{path}.{key}")
    for key, item in value.items()
  }
  missing = [
    name
    for name, f in fields.items()
    if name not in built
    if f.default is f.default_factory is dataclasses.MISSING
  ]
  if missing:
    raise ConfigError(f"{path}: {', '.join(missing)} must be given")
  with config_errors_at(path):
    return cls(**built)


def _union(hint, value, path):
  options = typing.get_args(hint)
  if value is None and types.NoneType in options:
    return None
  options = [o for o in options if o is not types.NoneType]
  is_sequence = isinstance(value, (tuple, list))
  alike = [o for o in options if (typing.get_origin(o) is tuple) == is_sequence]
  for option in alike or options:
    try:
      return _build(option, value, path)
    except _WrongType as e:
      if e.value is not value:
        raise  # a value within it
  raise _WrongType(path, hint, value)


def _tuple(hint, arguments, value, path):
  if not isinstance(value, (tuple, list)):
    raise _WrongType(path, hint, value)
  several = Ellipsis in arguments
  kinds = arguments[:1] * len(value) if several else arguments
  if len(value) != len(kinds):
    raise _WrongType(path, hint, value)
  return tuple(
    _build(kind, item, f"{path}[{i}]")
    for i, (kind, item) in enumerate(zip(kinds, value))
  )


def _remedy(hint, value):
  """Text such as "; give (16, 16)", where 16 was written for a pair."""
  for candidate in _candidates(value):
    with contextlib.suppress(ConfigError):
      _build(hint, candidate, "")
      text = show(candidate)
      # One pair of quotes is the shell's.
      text = f'"{text}"' if isinstance(candidate, str) else text
      return f"; give {text}"
  if isinstance(value, str) and value.startswith(("(", "[")):
    return f"; {overrides_lib.QUOTES}"
  return ""


def _candidates(value):
  """Values that may have been meant, likeliest first."""
  if isinstance(value, str):
    words = {"none": None, "yes": True, "on": True, "no": False, "off": False}
    if value.lower() in words:
      yield words[value.lower()]
    if sides := re.fullmatch(r"(\d+)x(\d+)", value):
      yield tuple(map(int, sides.groups()))
    with contextlib.suppress(*overrides_lib.NOT_PYTHON):
      # In quotes too many.
      parsed = to_plain(overrides_lib.parse(value))
      yield from (parsed, (parsed,))
      yield float(parsed)
  if isinstance(value, float) and value.is_integer():
    yield int(value)
  if type(value) is int:
    if value in (0, 1):
      yield bool(value)
    if abs(value) <= LARGEST_INT:
      yield str(value)
  if not isinstance(value, tuple):
    yield from ((value,), (value, value))
  elif len(value) == 1:
    yield from (value[0], value * 2)


def to_json(value):
  """Plain values of an object; `from_plain` is the inverse."""
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  if isinstance(value, tuple):
    return [to_json(item) for item in value]
  if isinstance(value, Mapping):
    return {key: to_json(item) for key, item in value.items()}
  name = name_of(value)
  named = {} if name is None else {"name": name}
  fields = _fields(type(value))
  return named | {f.name: to_json(getattr(value, f.name)) for f in fields}


def name_of(value) -> str | None:
  """Name of an object of one of the choices; None for other objects."""
  for table in registry.CHOICES.values():
    for name, chosen in table.items():
      if chosen is type(value) or chosen == value:
        return name
  return None


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """Lines `key: old -> new` for all that differs between two JSON configs."""
  flat_old, flat_new = overrides_lib.flatten(old), overrides_lib.flatten(new)
  return [
    f"{key}: {flat_old.get(key)!r} -> {flat_new.get(key)!r}"
    for key in sorted(flat_old.keys() | flat_new.keys())
    if flat_old.get(key) != flat_new.get(key)
  ]


def _fields(cls):
  """Fields that a config may set; a linen module adds two of its own."""
  own = {"parent", "name"} if issubclass(cls, nn.Module) else set()
  return [f for f in dataclasses.fields(cls) if f.name not in own and f.init]


def _describe(hint):
  names = {int: "a whole number", float: "a number", str: "a text"}
  names |= {bool: "True or False", types.NoneType: "None"}
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin in (types.UnionType, typing.Union):
    return " or ".join(map(_describe, arguments))
  if origin is tuple:
    several = Ellipsis in arguments
    return "a tuple" if several else f"{len(arguments)} values in a tuple"
  return names.get(hint) or getattr(hint, "__name__", str(hint))
