"""From plain values and the command line to frozen objects, and back to JSON.

A choice is `dict(name="learned_grid", size=(7, 7))`, or just its name. Plain
values stop here: the schema is the fields and type hints of the objects
themselves.
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
  """The experiment of `configs/NAME.py[:argument]` with overrides applied.

  Args:
    path_and_argument: what follows the colon is passed to `get_config`.
    overrides: `key.sub_key=value`, values in Python's notation.
    report: called with a line for each override that changed values which it
      does not mention.

  Raises:
    ConfigError: naming the key, the value and what would be valid.
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
      later = tuple(overrides[i + 1 :])
      drops.append(overrides_lib.Dropped(override, dropped, later))
  try:
    if waiting:
      raw = to_json(_experiment(raw))
      for override in waiting:
        overrides_lib.apply(raw, override)
    experiment = _experiment(raw)
  except _MissingFieldError as e:
    why = [text for d in drops if (text := d.why_missing(e.path, e.names))]
    raise ConfigError("".join((str(e), *why))) from None
  for each in drops:
    if line := each.describe(to_json(experiment)):
      report(line)
  return experiment


class _MissingFieldError(ConfigError):
  """Fields without a default that were not given."""

  def __init__(self, path: str, names: Sequence[str]):
    super().__init__(f"{path}: {', '.join(names)} must be given")
    self.path, self.names = path, names


def from_plain(raw: Mapping[str, Any]) -> Experiment:
  """Builds the experiment of a run's config.json, of this version or earlier.

  Raises:
    ConfigError: naming the key, the value and what would be valid.
  """
  return _experiment(retired.renewed(raw))


def _experiment(raw: Mapping[str, Any]) -> Experiment:
  try:
    return _record(Experiment, raw, "config")
  except _WrongType as e:
    raise ConfigError(cut(f"{e}{_remedy(e.hint, e.value)}", 600)) from None
  except _MissingFieldError:
    raise
  except ConfigError as e:
    raise ConfigError(cut(str(e), 600)) from e.__cause__


class _WrongType(ConfigError):
  """A value that is not what a type hint asks for."""

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
  # Not isinstance: True is no whole number here.
  is_number = type(value) in (int, float) and hint in (int, float)
  if type(value) is not hint and not (is_number and hint is float):
    raise _WrongType(path, hint, value, got=value is not None)
  return _number(hint, value, path) if is_number else value


# What numpy's and JAX's numbers can hold.
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
    called = isinstance(name, str) and re.fullmatch(r"(\w+)\((.*)\)", name)
    if called and called[1] in table:
      close = f" (write dict(name={called[1]!r}, {called[2]}))"
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
    meant = [
      f" (did you mean {path}.{name}={value}?)"
      for name in fields
      if isinstance(value, str)
      and value in registry.CHOICES.get(hints[name], ())
    ]
    raise ConfigError(
      f"{path} is {show(value)}{''.join(meant[:1])}: expected its fields, "
      f"{listed(fields)}"
    )
  for key in value:
    if key not in fields:
      written = overrides_lib.flatten(value)
      below = [k for k in written if str(k).endswith(f".{key}")]
      hint = did_you_mean(key, fields)
      if below:
        hint = f" (did you mean {below[0]!r}?)"
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
    and f.default is dataclasses.MISSING
    and f.default_factory is dataclasses.MISSING
  ]
  if missing:
    raise _MissingFieldError(path, missing)
  with config_errors_at(path):
    return cls(**built)


def _union(hint, value, path):
  options = typing.get_args(hint)
  if value is None and types.NoneType in options:
    return None
  options = [o for o in options if o is not types.NoneType]
  if len(options) > 1:
    is_sequence = isinstance(value, (tuple, list))
    alike = [
      o for o in options if (typing.get_origin(o) is tuple) == is_sequence
    ]
    options = alike if len(alike) == 1 else options
  try:
    if len(options) == 1:
      return _build(options[0], value, path)
  except _WrongType as e:
    if e.value is value:
      # Here the other options would do as well.
      raise _WrongType(path, hint, value) from None
    raise
  for option in options:
    with contextlib.suppress(ConfigError):
      return _build(option, value, path)
  raise _WrongType(path, hint, value)


def _tuple(hint, arguments, value, path):
  variadic = len(arguments) == 2 and arguments[1] is Ellipsis
  if not isinstance(value, (tuple, list)) or (
    not variadic and len(value) != len(arguments)
  ):
    raise _WrongType(path, hint, value)
  kinds = [arguments[0]] * len(value) if variadic else arguments
  return tuple(
    _build(kind, item, f"{path}[{i}]")
    for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
  )


def _remedy(hint, value):
  """ "; give (16, 16)" where 16 was written for a pair, say."""
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
  """What may have been meant, likeliest first."""
  if isinstance(value, str):
    words = {"none": None, "null": None, "yes": True, "on": True}
    words |= {"no": False, "off": False, "true": True, "false": False}
    if value.lower() in words:
      yield words[value.lower()]
    if sides := re.fullmatch(r"(\d+)x(\d+)", value):
      yield tuple(map(int, sides.groups()))
    for kind in (int, float):
      with contextlib.suppress(ValueError):
        yield kind(value)
    with contextlib.suppress(*overrides_lib.NOT_PYTHON):
      # In quotes too many.
      parsed = to_plain(overrides_lib.parse(value))
      yield from (parsed, (parsed,))
  if isinstance(value, float) and value.is_integer():
    yield int(value)
  if type(value) is int:
    if value in (0, 1):
      yield bool(value)
    if abs(value) <= LARGEST_INT:
      yield str(value)
  if isinstance(value, (set, frozenset)):
    with contextlib.suppress(TypeError):
      yield tuple(sorted(value))
  elif isinstance(value, range):
    yield tuple(value)
  elif not isinstance(value, tuple):
    yield (value,)
    yield (value, value)
  elif len(value) == 1:
    yield value[0]
    yield value * 2


def to_json(value):
  """Plain values that `from_plain` turns back into an equal object."""
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  if isinstance(value, tuple):
    return [to_json(item) for item in value]
  if isinstance(value, Mapping):
    return {key: to_json(item) for key, item in value.items()}
  fields = {
    f.name: to_json(getattr(value, f.name)) for f in _fields(type(value))
  }
  name = name_of(value)
  return fields if name is None else {"name": name, **fields}


def name_of(value) -> str | None:
  """What a config calls an object of one of the choices; None: it is none."""
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
    fixed = Ellipsis not in arguments
    return f"{len(arguments)} values in a tuple" if fixed else "a tuple"
  return names.get(hint) or getattr(hint, "__name__", str(hint))
