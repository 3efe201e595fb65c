"""From config files and the command line to frozen objects, and back to JSON.

A config file returns an `ml_collections.ConfigDict` of plain values; a choice
is `dict(name="learned_grid", size=(7, 7))`, or just its name. Config objects
stop here: the schema is the fields and type hints of the objects themselves.
"""

import ast
import dataclasses
import difflib
import importlib.util
import inspect
import pathlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import ml_collections

from flexivit_jax.core import patch_size
from flexivit_jax.data import augment, sources
from flexivit_jax.experiment import ConfigError, Experiment, blaming
from flexivit_jax.nn import pooling, positions, vit
from flexivit_jax.tasks import supervised
from flexivit_jax.training import optimizer

# What each choice may be: a type hint to {name: class, or ready-made object}.
CHOICES: dict[Any, dict[str, Any]] = {
  vit.Size: {**vit.SIZES, "custom": vit.Size},
  positions.Position: {
    "none": positions.NoPosition,
    "learned_grid": positions.LearnedGrid,
    "sincos2d": positions.SinCos2D,
  },
  pooling.Pool: {
    "gap": pooling.Gap,
    "tok": pooling.ClassToken,
    "map": pooling.Map,
  },
  supervised.Supervised: {"supervised": supervised.Supervised},
  supervised.Loss: {
    "softmax": supervised.SoftmaxLoss,
    "sigmoid": supervised.SigmoidLoss,
  },
  patch_size.PatchSizePolicy: {
    "fixed": patch_size.FixedPatchSize,
    "sampled": patch_size.SampledPatchSize,
  },
  sources.SourceSpec: {
    "digits": sources.Digits,
    "image_folder": sources.ImageFolder,
  },
  augment.Transform: {
    "resize": augment.Resize,
    "resize_crop": augment.ResizeCrop,
    "inception_crop": augment.InceptionCrop,
    "flip": augment.Flip,
    "affine": augment.Affine,
  },
  optimizer.Optimizer: {"adamw": optimizer.AdamW, "sgd": optimizer.Sgd},
  optimizer.Schedule: {
    "cosine": optimizer.Cosine,
    "constant": optimizer.Constant,
  },
}


def load(path_and_argument: str, overrides: Sequence[str] = ()) -> Experiment:
  """The experiment of `configs/NAME.py[:argument]` with overrides applied.

  Args:
    path_and_argument: what follows the colon is passed to `get_config`.
    overrides: `key.sub_key=value`, values in Python's notation.

  Raises:
    ConfigError: naming the key, the value and what would be valid.
  """
  raw = to_plain(_read(path_and_argument))
  if overrides:
    # With every default written out, so that each of them can be changed.
    raw = to_json(from_plain(raw))
  for override in overrides:
    apply_override(raw, override)
  return from_plain(raw)


def _read(path_and_argument):
  path, colon, argument = path_and_argument.partition(":")
  file = pathlib.Path(path)
  if not file.is_file():
    here = sorted(str(p) for p in file.parent.glob("*.py")) or ["none"]
    raise ConfigError(f"no config file {path}; there: {', '.join(here)}")
  if file.suffix != ".py":
    raise ConfigError(f"{path} is no Python file")
  spec = importlib.util.spec_from_file_location(file.stem, file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, "get_config"):
    raise ConfigError(f"{path} has no function get_config")
  parameters = inspect.signature(module.get_config).parameters
  if colon and not parameters:
    raise ConfigError(f"{path} takes no argument, but was given {argument!r}")
  required = [n for n, p in parameters.items() if p.default is p.empty]
  if required and not colon:
    raise ConfigError(f"{path} needs its {required[0]}: --config {path}:VALUE")
  with blaming(path_and_argument):
    return module.get_config(*([argument] if colon else []))


def to_plain(value):
  """ConfigDicts as dicts, lists as tuples."""
  if isinstance(value, ml_collections.ConfigDict):
    value = {k: value[k] for k in value}
  if isinstance(value, Mapping):
    return {k: to_plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return tuple(to_plain(v) for v in value)
  return value


def apply_override(raw: dict[str, Any], override: str) -> None:
  """Sets `a.b=value` in nested dicts, in place.

  Setting a choice's `name` to another one drops its other fields: they belong
  to the class that it named before.
  """
  key, equals, text = override.partition("=")
  if not equals:
    raise ConfigError(f"--config.{override}: write --config.{key}=VALUE")
  *parents, last = key.split(".")
  place = raw
  for i, parent in enumerate(parents):
    child = place.get(parent)
    if isinstance(child, str):
      child = place[parent] = {"name": child}
    if not isinstance(child, dict):
      where = ".".join(("config", *parents[: i + 1]))
      if parent in place:
        raise ConfigError(
          f"--config.{key}: {where} is {child!r} and has no fields"
        )
      raise ConfigError(
        f"--config.{key}: there is no {where}{_hint(parent, place)}"
      )
    place = child
  try:
    value = to_plain(ast.literal_eval(text))
  except (ValueError, SyntaxError, TypeError):
    value = {"true": True, "false": False}.get(text, text)
  if last == "name" and place.get("name") not in (None, value):
    place.clear()
  place[last] = value


def from_plain(raw: Mapping[str, Any]) -> Experiment:
  """Builds the experiment from plain values, as in a run's config.json."""
  return _record(Experiment, raw, "config")


def _build(hint, value, path):
  if hint in CHOICES:
    return _choice(hint, value, path)
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin in (types.UnionType, typing.Union):
    return _union(arguments, value, path)
  if origin is tuple:
    return _tuple(arguments, value, path)
  if dataclasses.is_dataclass(hint):
    return _record(hint, value, path)
  if hint is types.NoneType and value is None:
    return None
  if hint is float and type(value) is int:
    return float(value)
  # Not isinstance: True is no whole number here.
  if type(value) is not hint:
    raise ConfigError(
      f"{path} is {value!r}: expected {_describe(hint)}, "
      f"got {type(value).__name__}"
    )
  return value


def _choice(hint, value, path):
  table = CHOICES[hint]
  fields = {"name": value} if isinstance(value, str) else value
  names = ", ".join(map(repr, table))
  if not isinstance(fields, Mapping) or "name" not in fields:
    raise ConfigError(f"{path} is {value!r}: give a name, one of {names}")
  fields = dict(fields)
  name = fields.pop("name")
  if not isinstance(name, str) or name not in table:
    close = _hint(name, table)
    raise ConfigError(f"{path} has no {name!r}{close}; valid: {names}")
  chosen = table[name]
  if isinstance(chosen, type):
    return _record(chosen, fields, path)
  ready = {f.name: getattr(chosen, f.name) for f in _fields(type(chosen))}
  return _record(type(chosen), ready | fields, path)


def _record(cls, value, path):
  if not isinstance(value, Mapping):
    raise ConfigError(f"{path} is {value!r}: expected fields of {cls.__name__}")
  fields = {f.name: f for f in _fields(cls)}
  for key in value:
    if key not in fields:
      valid = ", ".join(fields) or "none"
      raise ConfigError(
        f"{path}.{key}: no such key{_hint(key, fields)}; valid: {valid}"
      )
  hints = typing.get_type_hints(cls)
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
    raise ConfigError(f"{path}: {', '.join(missing)} must be given")
  with blaming(path):
    return cls(**built)


def _union(options, value, path):
  if value is None and types.NoneType in options:
    return None
  options = [o for o in options if o is not types.NoneType]
  if len(options) == 1:
    return _build(options[0], value, path)
  for option in options:
    try:
      return _build(option, value, path)
    except ConfigError:
      continue
  expected = " or ".join(map(_describe, options))
  raise ConfigError(f"{path} is {value!r}: expected {expected}")


def _tuple(arguments, value, path):
  variadic = len(arguments) == 2 and arguments[1] is Ellipsis
  if not isinstance(value, (tuple, list)) or (
    not variadic and len(value) != len(arguments)
  ):
    what = "a tuple" if variadic else f"{len(arguments)} values in a tuple"
    raise ConfigError(f"{path} is {value!r}: expected {what}")
  kinds = [arguments[0]] * len(value) if variadic else arguments
  return tuple(
    _build(kind, item, f"{path}[{i}]")
    for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
  )


def to_json(value):
  """Plain values that `from_plain` turns back into an equal object."""
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  if isinstance(value, tuple):
    return [to_json(item) for item in value]
  fields = {
    f.name: to_json(getattr(value, f.name)) for f in _fields(type(value))
  }
  name = _name_of(value)
  return fields if name is None else {"name": name, **fields}


def _name_of(value):
  for table in CHOICES.values():
    for name, chosen in table.items():
      if chosen is type(value) or chosen == value:
        return name
  return None


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """Lines `key: old -> new` for all that differs between two JSON configs."""
  flat_old, flat_new = _flatten(old), _flatten(new)
  return [
    f"{key}: {flat_old.get(key)!r} -> {flat_new.get(key)!r}"
    for key in sorted(flat_old.keys() | flat_new.keys())
    if flat_old.get(key) != flat_new.get(key)
  ]


def _flatten(tree, prefix=""):
  if not isinstance(tree, Mapping):
    return {prefix: tree}
  flat = {}
  for key, value in tree.items():
    flat |= _flatten(value, f"{prefix}.{key}" if prefix else key)
  return flat


def _fields(cls):
  """Fields that a config may set; a linen module adds two of its own."""
  own = {"parent", "name"} if issubclass(cls, nn.Module) else set()
  return [f for f in dataclasses.fields(cls) if f.name not in own and f.init]


def _hint(word, valid):
  close = difflib.get_close_matches(str(word), list(map(str, valid)), n=1)
  return f" (did you mean {close[0]!r}?)" if close else ""


def _describe(hint):
  names = {int: "a whole number", float: "a number", str: "a text"}
  return names.get(hint) or getattr(hint, "__name__", str(hint))
