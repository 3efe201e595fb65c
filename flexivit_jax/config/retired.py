"""Renews configs of earlier versions."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

_ADAFACTOR = (
  "min_dim_size_to_factor",
  "decay_rate",
  "multiply_by_parameter_scale",
  "clipping_threshold",
  "momentum",
  "eps",
)


def renewed(
  raw: Mapping[str, Any], report: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
  """Plain values of a config with the names and fields of this version.

  Args:
    report: called with a line for each field that was dropped.
  """
  raw = copy.deepcopy(dict(raw))
  for place, field in (
    (("model", "distribution"), "gather"),
    (("mesh",), "double_averaging"),
  ):
    inner = _at(raw, place)
    if isinstance(inner, Mapping) and field in inner:
      del inner[field]
      report(f"config.{'.'.join((*place, field))} is gone and was left out")
  if _name(_at(raw, ("model", "kernel"))) == "triton":
    report("config.model.kernel is now fused, which has no fields")
    raw["model"]["kernel"] = "fused"
  if _name(raw.get("optimizer")) == "optax":
    raw["optimizer"] = _optimizer(raw["optimizer"])
  return raw


def _optimizer(old):
  """Renews an optimiser that was one of optax's, by name."""
  new = {k: v for k, v in old.items() if k not in ("transform", "options")}
  transform, options = old.get("transform"), dict(old.get("options") or {})
  if transform == "adafactor" and options.keys() <= set(_ADAFACTOR):
    return {**new, "name": "adafactor", **options}
  unknown = "".join(f" with {name}" for name in options)
  return {**new, "name": "retired", "was": f"optax's {transform}{unknown}"}


def _at(raw, place):
  for key in place:
    raw = raw.get(key) if isinstance(raw, Mapping) else None
  return raw


def _name(choice) -> str | None:
  return choice.get("name") if isinstance(choice, Mapping) else choice
