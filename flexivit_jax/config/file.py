"""Runs a config file and converts its `ConfigDict` to plain values."""

import contextlib
import importlib.util
import inspect
import pathlib
import re
import traceback
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
from ml_collections import config_dict

from flexivit_jax.core.errors import ConfigError, Fault
from flexivit_jax.core.text import cut, listed, nearest, show


def read(path_and_argument: str) -> dict[str, Any]:
  """Plain values from `get_config` of `configs/NAME.py[:argument]`.

  Raises:
    ConfigError: naming the file, the line that fails and what would be valid.
  """
  path, colon, argument = path_and_argument.partition(":")
  file = pathlib.Path(path)
  try:
    is_file = file.is_file()
  except OSError as e:
    raise ConfigError(f"no config file {cut(path, 100)}: {e.strerror}") from e
  if not is_file:
    what = (
      f"{path} is a directory" if file.is_dir() else f"no config file {path}"
    )
    raise ConfigError(f"{what if path else 'no config file'}{_others(file)}")
  if file.suffix != ".py":
    raise ConfigError(f"{path} is no Python file{_others(file)}")
  spec = importlib.util.spec_from_file_location(file.stem, file)
  module = importlib.util.module_from_spec(spec)
  _run(path, spec, lambda: spec.loader.exec_module(module))
  get_config = getattr(module, "get_config", None)
  if not callable(get_config):
    raise ConfigError(
      f"{path} has no function get_config. Define it to return a ConfigDict"
    )
  given = [argument] if colon else []
  _check_argument(path, spec, get_config, given, module.__doc__ or "")
  config = _run(path, spec, lambda: get_config(*given))
  if not isinstance(config, (ml_collections.ConfigDict, Mapping)):
    raise ConfigError(
      f"{path}: get_config returns {show(config)}: expected a ConfigDict"
    )
  return to_plain(config)


def _others(file):
  """The config files that may have been meant, the nearest one first."""
  folder = file if file.is_dir() else file.parent
  configs = pathlib.Path("configs")
  # Beside the commands are other scripts; configs have their own folder.
  if configs.is_dir() and (folder == pathlib.Path() or not _scripts(folder)):
    folder = configs
  there = {f.stem: f for f in _scripts(folder)}
  meant = nearest(file.stem, there)
  hint = f" (did you mean {there[meant]}?)" if meant else ""
  names = listed([f.name for f in there.values()] or ["none"])
  return f"{hint}; in {folder}: {names}"


def _scripts(folder):
  # Configs share the files that begin with an underscore.
  return sorted(folder.glob("[!_]*.py"))


def _run(path, spec, function):
  """Calls a function of the file; a ConfigError names the line that fails."""
  try:
    return function()
  # Whatever the user's own code raises, sys.exit() too.
  except (Exception, SystemExit) as e:
    own = isinstance(e, SyntaxError) and e.filename == spec.origin
    text = " ".join(str(e.msg if own else e).split())
    lines = [
      frame.lineno
      for frame in traceback.extract_tb(e.__traceback__)
      if frame.filename == spec.origin
    ]
    line = e.lineno if own else (lines or [None])[-1]
    place = path if line is None else f"{path}, line {line}"
    what = type(e).__name__ + (f": {cut(text, 300)}" if text else "")
    if isinstance(e, Fault):  # says all itself, in lines
      what = "; ".join(str(e).splitlines())
    raise ConfigError(f"{place}: {what}") from e


def _check_argument(path, spec, get_config, given, header):
  signature = _run(path, spec, lambda: inspect.signature(get_config))
  try:
    signature.bind(*given)
  except TypeError:
    parameters = signature.parameters.values()
    takes = [p for p in parameters if p.kind <= p.POSITIONAL_OR_KEYWORD]
    needs = [p.name for p in parameters if p.default is p.empty]
    if not given and takes and len(needs) == 1:
      name = re.escape(pathlib.Path(path).name)
      # As the commands in the file's own header have it.
      shown = re.search(rf"{name}:([\w:/]+(,[A-Z]+)*)", header)
      example = shown[1] if shown else needs[0].upper()
      smoke = f", or {path}:smoke to try it" if "`smoke`" in header else ""
      raise ConfigError(
        f"{path} needs its {needs[0]}: --config {path}:{example}{smoke}"
      ) from None
    raise ConfigError(
      f"{path}: get_config{cut(str(signature), 200)} cannot be called with "
      f"{len(given)} arguments: --config FILE:VALUE gives one, FILE none"
    ) from None


def to_plain(value: Any, path: str = "config") -> Any:
  """Converts ConfigDicts to dicts, sequences to tuples, numpy's to Python's.

  Unset placeholders become None; required ones are left out.
  """
  if isinstance(value, config_dict.FieldReference):
    value = _resolve(value.get, path)
  if isinstance(value, (np.ndarray, np.generic)):
    value = value.tolist()
  if isinstance(value, (Mapping, ml_collections.ConfigDict)):
    plain = {}
    for key in value:
      with contextlib.suppress(config_dict.RequiredValueError):
        item = _resolve(lambda key=key: value[key], f"{path}.{key}")
        plain[key] = to_plain(item, f"{path}.{key}")
    return plain
  if isinstance(value, (list, tuple)):
    return tuple(to_plain(v, f"{path}[{i}]") for i, v in enumerate(value))
  return value


def _resolve(get, path):
  try:
    return get()
  except config_dict.RequiredValueError:
    raise
  # A reference runs what the config file computes with it.
  except Exception as e:
    raise ConfigError(f"{path}: {type(e).__name__}: {cut(str(e), 300)}") from e
