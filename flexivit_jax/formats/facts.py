"""What a checkpoint's arrays cannot say, each with where it was found."""

from collections.abc import Mapping
from typing import Any

_REQUIRED = object()

# What may be given to `load`, with what it means.
MEANINGS = {
  "num_heads": "attention heads",
  "gelu": "'tanh' or 'exact'",
  "eps": "of every LayerNorm",
  "pool": "'tok', 'gap' or 'map'",
  "posemb": "(rows, cols) of the position table",
  "image_mean": "of pixels in 0 to 1, a number for each channel",
  "image_std": "of pixels in 0 to 1, a number for each channel",
  "patch_size": "pixels, or (height, width), to use where none is given",
}


class Facts:
  """Looks names up in several sources, the first that knows wins.

  Args:
    path: of the checkpoint, for errors.
    sources: (what to call it, {name: value}), the most trusted first. A value
      of None is none.
  """

  def __init__(self, path, *sources: tuple[str, Mapping[str, Any]]):
    self.path = path
    self._sources = list(sources)
    self.origins: dict[str, str] = {}

  def add(self, source: str, values: Mapping[str, Any]) -> None:
    """A source that is trusted less than those before it."""
    self._sources.append((source, values))

  def get(self, name: str, default=_REQUIRED):
    """The value; where it was found is remembered in `origins`.

    Raises:
      ValueError: nobody knows it and there is no default.
    """
    for source, values in self._sources:
      if values.get(name) is not None:
        self.origins[name] = source
        return values[name]
    if default is _REQUIRED:
      meaning = MEANINGS.get(name)
      what = f"{name} ({meaning})" if meaning else name
      raise ValueError(
        f"{self.path} does not say {what}: give {name}= to load, or put the "
        "config.json that belongs to it beside it"
      )
    return default
