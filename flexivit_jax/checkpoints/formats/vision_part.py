"""The vision encoder in a whole model of Hugging Face's."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flexivit_jax.checkpoints.formats.metadata import Facts
from flexivit_jax.core.text import show


def part_of(config: Mapping[str, Any], kinds: Mapping[str, str | None]):
  """The part of a config.json that is a vision encoder's.

  Args:
    kinds: model_type to the key that it is under; None: all of it.

  Raises:
    ValueError: it is another kind of model.
  """
  kind = config.get("model_type")
  if kind not in kinds:
    raise ValueError(
      f"it is of a model of type {show(kind)}, and only "
      f"{' and '.join(map(repr, kinds))} are known here"
    )
  key = kinds[kind]
  return config if key is None else config.get(key) or {}


def encoder_of(
  arrays: Mapping[str, np.ndarray],
  kernel: str,
  prefixes: tuple[str, ...],
  others: tuple[str, ...],
  facts: Facts,
) -> dict[str, np.ndarray]:
  """The arrays of the vision encoder in a whole model, under its own names.

  Args:
    kernel: name in it of the patch embedding.
    prefixes: of its names, in a whole model and alone.
    others: what the names of the whole model's other parts begin with. How
      many they are is noted in facts.
  """
  prefix = next(p for p in prefixes if f"{p}{kernel}" in arrays)
  left = {name for name in arrays if prefix and name.startswith(others)}
  if left:
    parts = dict.fromkeys(name.split(".")[0] for name in sorted(left))
    count = f"{len(left)} of {len(arrays)} arrays"
    facts.left_out = f"{', '.join(parts)} ({count})"
  return {
    name.removeprefix(prefix): x
    for name, x in arrays.items()
    if name not in left
  }
