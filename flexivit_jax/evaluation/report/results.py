"""results.json: a sweep as plain values."""

import dataclasses
import json
import math
import pathlib
from typing import Any

from flexivit_jax.evaluation.settings import Point, Sweep

# Grows when a field changes its meaning or goes away.
SCHEMA = 1
NAME = "results.json"


def to_json(sweep: Sweep) -> dict[str, Any]:
  """Results of a sweep without the answers to each image.

  Numbers that are not finite, which JSON does not have, become None, as do
  those that were not measured. docs/evaluation.md lists the fields.
  """
  return {
    "schema": SCHEMA,
    "checkpoint": sweep.checkpoint,
    "step": sweep.step,
    "model": sweep.model,
    "resize": sweep.resize,
    "parameters": sweep.parameters,
    "data": sweep.data,
    "classes": list(sweep.classes),
    "command": sweep.command,
    "points": [_point(p) for p in sweep.points],
    "routes": [_plain(dataclasses.asdict(r)) for r in sweep.routes],
    "provenance": _plain(sweep.provenance),
  }


def others(directory: pathlib.Path, sweep: Sweep) -> list[str]:
  """Names of the points in a directory's results.json that a sweep is without:
  of other settings, or all, where they are of another model or other data.

  A report of the sweep will replace it.
  """
  new = to_json(sweep)
  same = ("checkpoint", "step", "resize", "data")
  try:
    old = json.loads((directory / NAME).read_text())
    names = [str(point["name"]) for point in old["points"]]
    alike = all(old[key] == new[key] for key in same)
  except (OSError, ValueError, KeyError, TypeError):
    return []  # no report, or none of ours
  now = {point["name"] for point in new["points"]} if alike else ()
  return [name for name in names if name not in now]


def _point(point: Point) -> dict[str, Any]:
  setting, cost = point.setting, point.cost
  median, p95 = cost.latency_s or (None, None)
  return _plain(
    {
      "name": setting.name,
      "patch_hw": setting.patch_hw,
      "image_hw": setting.image_hw,
      "budget": setting.budget,
      "tokens": point.tokens,
      "images": point.images,
      "top1": point.top1,
      "top5": point.top5,
      "loss": point.loss,
      "calibration_error": point.calibration_error,
      "multiply_adds": cost.multiply_adds,
      "peak_bytes": cost.peak_bytes,
      "compile_s": cost.compile_s,
      "latency_median_s": median,
      "latency_p95_s": p95,
      "images_per_s": cost.images_per_s,
    }
  )


def _plain(value):
  if isinstance(value, dict):
    return {str(k): _plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(v) for v in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
