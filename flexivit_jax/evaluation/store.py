"""Finished points of an evaluation, stored in a directory."""

import dataclasses
import hashlib
import json
import pathlib
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from flexivit_jax.checkpoints import atomic
from flexivit_jax.evaluation.settings import Cost, Point, Setting
from flexivit_jax.tasks.predictions import Answers

_NOT_WHOLE = (
  OSError,
  EOFError,
  ValueError,
  KeyError,
  TypeError,
  zipfile.BadZipFile,
  zlib.error,
)


@dataclasses.dataclass(frozen=True)
class Store:
  """Points in `directory`, one file each.

  Attributes:
    key: of a setting, JSON of all else that its point depends on; points of
      another key are as if they were not there.
  """

  directory: pathlib.Path
  key: Callable[[Setting], dict[str, Any]]

  def load(self, setting: Setting) -> tuple[Point, Answers] | None:
    """A finished point and its answers; None where there is none, or the file
    is not whole."""
    try:
      with np.load(self._path(setting), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
      said = json.loads(str(arrays.pop("point")))
      if said["key"] != json.loads(json.dumps(self.key(setting))):
        return None
      return _point(said["point"]), Answers(**arrays)
    except _NOT_WHOLE:
      return None

  def save(self, point: Point, answers: Answers) -> None:
    """Keeps a point; all of it or, if it is interrupted, nothing."""
    key = self.key(point.setting)
    said = {"key": key, "point": dataclasses.asdict(point)}
    arrays = {
      f.name: np.asarray(getattr(answers, f.name))
      for f in dataclasses.fields(answers)
    }
    self.directory.mkdir(parents=True, exist_ok=True)
    with (
      atomic.replacing(self._path(point.setting)) as unfinished,
      unfinished.open("wb") as file,
    ):
      np.savez_compressed(file, point=np.array(json.dumps(said)), **arrays)

  def _path(self, setting):
    # Points of another key stay where they are.
    text = json.dumps(self.key(setting), sort_keys=True)
    short = hashlib.sha256(text.encode()).hexdigest()[:8]
    return self.directory / f"{setting.name}-{short}.npz"


def _point(said: dict[str, Any]) -> Point:
  setting, cost = dict(said["setting"]), dict(said["cost"])
  for name in ("patch_hw", "image_hw"):
    if setting[name] is not None:
      setting[name] = tuple(setting[name])
  if cost["latency_s"] is not None:
    cost["latency_s"] = tuple(cost["latency_s"])
  return Point(**(said | {"setting": Setting(**setting), "cost": Cost(**cost)}))
