"""Rows of metrics.jsonl: writing, reading, and the best score."""

import json
import pathlib
from collections.abc import Mapping

# What says which checkpoint is best, averaged over patch sizes, and its sign:
# the highest accuracy, or the lowest loss.
SCORES = {"validation/top1": 1, "validation/loss": -1}


class MetricsFile:
  """One JSON object per line, each with its `step`.

  Args:
    path: of the file.
    first_step: rows of later steps are removed: the run resumes there and
      will write them again.

  Attributes:
    removed: these, as (step, whether it is an evaluation's).
  """

  def __init__(self, path: pathlib.Path, first_step: int):
    rows = read_rows(path)
    kept = [row for row in rows if row["step"] <= first_step]
    self.removed = {
      (row["step"], is_evaluation(row))
      for row in rows
      if row["step"] > first_step
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
    temporary.replace(path)
    # Line-buffered: a killed process leaves all but the row it was writing.
    self._file = path.open("a", buffering=1)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    try:
      self._file.write(json.dumps({"step": step, **values}) + "\n")
    except OSError as e:  # which does not say itself where the disk is full
      raise OSError(e.errno, e.strerror, self._file.name) from e

  def close(self) -> None:
    self._file.close()


def read_rows(path: pathlib.Path) -> list[dict[str, float]]:
  """The rows of a metrics file; lines that are torn or damaged are left out."""
  if not path.exists():
    return []
  rows = []
  for line in path.read_bytes().splitlines():
    try:
      row = json.loads(line)
    except ValueError:
      continue
    if isinstance(row, dict) and isinstance(row.get("step"), int):
      rows.append(row)
  return rows


def is_evaluation(values: Mapping[str, float]) -> bool:
  """Whether they are an evaluation's, or else the training's."""
  return not SCORES.keys().isdisjoint(values)


def score(values: Mapping[str, float]) -> float:
  """Of an evaluation; higher is better."""
  return next(sign * values[x] for x, sign in SCORES.items() if x in values)


def read_scores(path: pathlib.Path) -> dict[int, float]:
  """Step to score, of the evaluations in a metrics file."""
  rows = filter(is_evaluation, read_rows(path))
  return {row["step"]: score(row) for row in rows}


def best(scores: Mapping[int, float]) -> int | None:
  """The step with the best score, the later of equals; None without one."""
  return max(scores, key=lambda step: (scores[step], step), default=None)
