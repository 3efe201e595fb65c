"""What a checkpoint's arrays cannot say, each with where it was found."""

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from flexivit_jax.core.sizes import as_hw
from flexivit_jax.core.text import show

_REQUIRED = object()

# What may be given to `load`, with what it means.
MEANINGS = {
  "num_heads": "attention heads",
  "gelu": "'tanh' or 'exact'",
  "eps": "of every norm",
  "pool": "'tok', 'gap' or 'map'",
  "posemb": "(rows, cols) of the position table",
  "posemb_resize": "'bilinear', to take another resize of positions for it",
  "image_mean": "of pixels in 0 to 1, a number for each channel",
  "image_std": "of pixels in 0 to 1, a number for each channel",
  "patch_size": "pixels, or (height, width), to use where none is given",
}


def _whole(value):
  if isinstance(value, (bool, np.bool_)):
    raise TypeError
  return operator.index(value)


def _number(value):
  if isinstance(value, (bool, np.bool_, str)):
    raise TypeError
  return float(value)


def _numbers(value):
  if isinstance(value, (list, tuple, np.ndarray)):
    return tuple(map(_number, value))
  return (_number(value),)


def _pair(value):
  first, second = value
  return _whole(first), _whole(second)


def as_pair(value):
  """A number twice, as configs write a square; else the value itself."""
  is_number = isinstance(value, int) and not isinstance(value, bool)
  return (value, value) if is_number else value


def _sizes(value):
  return tuple(map(as_hw, value))


def _text(value):
  if not isinstance(value, str):
    raise TypeError
  return value


def _texts(value):
  if not isinstance(value, (list, tuple)):
    raise TypeError
  return tuple(map(str, value))


def _flag(value):
  if not isinstance(value, (bool, np.bool_)):
    raise TypeError
  return bool(value)


# What a value is, and what makes it that: files may hold anything.
KINDS = {
  "num_heads": ("a whole number", _whole),
  "gelu": ("a text", _text),
  "eps": ("a number", _number),
  "pool": ("a text", _text),
  "posemb": ("(rows, cols)", _pair),
  "posemb_antialias": ("true or false", _flag),
  "posemb_resize": ("a text", _text),
  "posemb_combine": ("a text", _text),
  "posemb_read": ("a text", _text),
  "posemb_first": ("a whole number", _whole),
  "fractional_side": ("a number", _number),
  "kernel_antialias": ("true or false", _flag),
  "position": ("a text", _text),
  "temperature": ("a number", _number),
  "image_mean": ("a number, or one for each channel,", _numbers),
  "image_std": ("a number, or one for each channel,", _numbers),
  "standardize": ("true or false", _flag),
  "attention_scale": ("a number", _number),
  "patch_size": ("pixels, or (height, width),", as_hw),
  "trained_sizes": ("a list of patch sizes", _sizes),
  "classes": ("a list of names", _texts),
  "image_hw": ("(height, width)", _pair),
  "no_embed_class": ("true or false", _flag),
  # What the arrays show as well.
  "width": ("a whole number", _whole),
  "depth": ("a whole number", _whole),
  "mlp_dim": ("a whole number", _whole),
  "channels": ("a whole number", _whole),
  "kernel_hw": ("(height, width)", _pair),
  "qkv_bias": ("true or false", _flag),
  "rms_norm": ("true or false", _flag),
  "any_patch_size": ("true or false", _flag),
  "pooler_act": ("a text", _text),
}


class Facts:
  """Looks names up in several sources, the first that knows wins.

  Args:
    path: of the checkpoint, for errors.
    sources: (what to call it, {name: value}), the most trusted first. A value
      of None is none.

  Attributes:
    origins: {name: what said it} of all that was asked for.
    left_out: what the file holds besides the ViT.
  """

  def __init__(self, path, *sources: tuple[str, Mapping[str, Any]]):
    self.path = path
    self._sources = list(sources)
    self.origins: dict[str, str] = {}
    self.left_out = ""

  def add(self, source: str, values: Mapping[str, Any]) -> None:
    """A source that is trusted less than those before it."""
    self._sources.append((source, values))

  def _said(self, name: str) -> tuple[Any, str | None]:
    """(the value, who says it), or (None, None)."""
    for source, values in self._sources:
      value = values.get(name)
      if value is None:
        continue
      kind, convert = KINDS[name]
      try:
        return convert(value), source
      except (TypeError, ValueError, OverflowError) as e:
        raise ValueError(
          f"{self.path}: {name} is {show(value)} ({source}): {kind} is expected"
        ) from e
    return None, None

  def get(self, name: str, default=_REQUIRED):
    """The value; where it was found is remembered in `origins`.

    Raises:
      ValueError: nobody knows it and there is no default, or what is known is
        not of its kind (KINDS).
    """
    value, source = self._said(name)
    if source is not None:
      self.origins[name] = source
      return value
    if default is _REQUIRED:
      meaning = MEANINGS.get(name)
      what = f"{name} ({meaning})" if meaning else name
      raise ValueError(
        f"{self.path} does not say {what}, and neither does a config.json "
        f"beside it: give {name}= to load, --{name} to a command"
      )
    return default

  def agree(self, name: str, value: Any, because: str) -> None:
    """Refuses what is said otherwise than the arrays themselves show.

    Args:
      value: what they show; None: that there is no such thing.
      because: what shows it.

    Raises:
      ValueError: somebody says otherwise.
    """
    said, source = self._said(name)
    if said not in (None, value):
      raise ValueError(
        f"{self.path}: {name} is {said!r} ({source}), but {because}"
      )
