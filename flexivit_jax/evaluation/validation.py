"""Metrics of evaluations during training, and the score of a checkpoint."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from flexivit_jax.evaluation import measured, sweep
from flexivit_jax.evaluation.settings import Setting
from flexivit_jax.tasks import predictions
from flexivit_jax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class Validation:
  """Evaluation of the checkpoints of a task.

  Attributes:
    forward: as `sweep.forward`.
    gather: as `sweep.sweep` wants it.
    score: metric whose mean over settings says which checkpoint is best.
    rows: of what was gathered, {metric: number}; `score` among them.
  """

  forward: Callable[..., Any]
  gather: Callable[[list[Any]], Any]
  score: str
  rows: Callable[[Any], dict[str, float]]

  def values(self, found: Mapping[Setting, sweep.Found]) -> dict[str, float]:
    """{validation/METRIC@SETTING: number}, and `validation/SCORE`, its mean."""
    rows, scores = {}, []
    for setting, each in found.items():
      measures = self.rows(each.answers)
      scores.append(measures[self.score])
      for name, number in measures.items():
        rows[f"validation/{name}@{setting.short_name}"] = number
    return {f"validation/{self.score}": float(np.mean(scores)), **rows}


def _of_answers(found: predictions.Answers) -> dict[str, float]:
  return {"top1": found.top(1), "loss": found.mean_loss}


def of(task: Task) -> Validation:
  """By its answers, where the task classifies; else by its loss."""
  if task.classifies:
    return Validation(sweep.forward, predictions.gather, "top1", _of_answers)
  return Validation(measured.forward, measured.gather, "loss", dict)
