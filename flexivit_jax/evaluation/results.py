"""results.json: a sweep as plain values."""

import dataclasses
import math
from typing import Any

from flexivit_jax.evaluation.points import Point, Sweep

# Grows when a field changes its meaning or goes away.
SCHEMA = 1


def to_json(sweep: Sweep) -> dict[str, Any]:
  """What a sweep found, without the answers to each image.

  Numbers that are not finite, which JSON does not have, become None, as do
  those that were not measured. docs/evaluation.md lists the fields.
  """
  return {
    "schema": SCHEMA,
    "checkpoint": sweep.checkpoint,
    "step": sweep.step,
    "model": sweep.model,
    "parameters": sweep.parameters,
    "data": sweep.data,
    "classes": list(sweep.classes),
    "command": sweep.command,
    "points": [_point(p) for p in sweep.points],
    "routes": [_plain(dataclasses.asdict(r)) for r in sweep.routes],
    "provenance": _plain(sweep.provenance),
  }


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
