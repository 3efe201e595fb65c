"""Few-shot results as a table and as plain values."""

import dataclasses
from typing import Any

from flexivit_jax.core.sizes import size_name
from flexivit_jax.core.text import align
from flexivit_jax.evaluation.linear_probe.ridge import Accuracy, counted
from flexivit_jax.evaluation.settings import Setting

# Grows when a field changes its meaning or goes away.
SCHEMA = 1
NAME = "few_shot.json"


@dataclasses.dataclass(frozen=True)
class Point:
  """One setting measured.

  Attributes:
    tokens: patches per test image, their mean where images differ.
    images: that were tested.
    accuracies: one for each number of shots, in the order asked for.
  """

  setting: Setting
  tokens: float
  images: int
  accuracies: tuple[Accuracy, ...]


@dataclasses.dataclass(frozen=True)
class FewShot:
  """All that an evaluation found.

  Attributes:
    checkpoint: path or name of what was evaluated.
    step: of a run.
    model: one line that describes it.
    train, validation, test: one line that describes the images; validation:
      None where the penalty was given.
    classes: names, by label.
    command: what was run, as it can be pasted into a shell.
    provenance: versions, hardware, commit.
    points: in the order asked for.
  """

  checkpoint: str
  step: int | None
  model: str
  train: str
  validation: str | None
  test: str
  classes: tuple[str, ...]
  command: str
  provenance: dict[str, Any]
  points: tuple[Point, ...]


def table(found: FewShot) -> str:
  """Top-1 in percent, mean and standard error over draws: a line for each
  point, a column for each number of shots."""
  return _table(found, _percent)


def penalties(found: FewShot) -> str:
  """The penalties that were chosen, in the same lines and columns."""
  return _table(found, lambda accuracy: f"{accuracy.penalty:g}")


def _table(found, cell):
  settings = [p.setting for p in found.points]
  at = "image"
  if all(s.budget is not None for s in settings):
    at = "budget"
  shots = [counted(x.shots, "shot") for x in found.points[0].accuracies]
  rows = [
    (
      size_name(p.setting.patch_hw),
      str(p.setting.budget) if at == "budget" else p.setting.at,
      f"{p.tokens:.4g}",
      *map(cell, p.accuracies),
    )
    for p in found.points
  ]
  return align([("patch", at, "tokens", *shots), *rows])


def _percent(accuracy):
  text = f"{100 * accuracy.mean:.1f}"
  if accuracy.standard_error is None:
    return text
  return f"{text} +- {100 * accuracy.standard_error:.1f}"


def to_json(found: FewShot) -> dict[str, Any]:
  """Plain values; docs/few_shot.md lists the fields."""
  names = [f.name for f in dataclasses.fields(FewShot) if f.name != "points"]
  said = {name: getattr(found, name) for name in names}
  return {
    "schema": SCHEMA,
    **said,
    "classes": list(found.classes),
    "points": [
      {
        "name": point.setting.name,
        "patch_hw": list(point.setting.patch_hw),
        "image_hw": point.setting.image_hw and list(point.setting.image_hw),
        "budget": point.setting.budget,
        "tokens": point.tokens,
        "images": point.images,
        "shots": accuracy.shots,
        "penalty": accuracy.penalty,
        "top1": list(accuracy.top1),
        "mean": accuracy.mean,
        "standard_error": accuracy.standard_error,
      }
      for point in found.points
      for accuracy in point.accuracies
    ],
  }
