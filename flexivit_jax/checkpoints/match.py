"""Strict comparison of a checkpoint's arrays with a model's parameters."""

from collections.abc import Mapping

import numpy as np


def check_shapes(
  found: Mapping[str, np.ndarray], wanted: Mapping[str, object], path
) -> None:
  """Refuses leftovers in both directions.

  Args:
    found: {name: array} of the checkpoint.
    wanted: {name: anything with a shape} of the model.

  Raises:
    ValueError: listing missing, unexpected and wrongly shaped arrays.
  """
  lines = [f"missing: {name}" for name in sorted(wanted.keys() - found.keys())]
  lines += [
    f"unexpected: {name}" for name in sorted(found.keys() - wanted.keys())
  ]
  lines += [
    f"{name}: file {found[name].shape}, model {wanted[name].shape}"
    for name in sorted(wanted.keys() & found.keys())
    if tuple(found[name].shape) != tuple(wanted[name].shape)
  ]
  if lines:
    shown = "; ".join(lines[:5])
    more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
    raise ValueError(f"{path} does not match the model: {shown}{more}")
