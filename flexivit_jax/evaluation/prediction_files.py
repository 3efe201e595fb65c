"""Files of a prediction: predictions.json and .csv, features.npz."""

import contextlib
import csv
import json
import pathlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from flexivit_jax.checkpoints import atomic
from flexivit_jax.evaluation.predict import Prediction, Wanted

JSON, CSV, NPZ = "predictions.json", "predictions.csv", "features.npz"


class Files:
  """Files that grow with the predictions; `open_files` makes one.

  Args:
    report: predictions.json, open; None: there is none.
    table: rows of predictions.csv.
    archive: features.npz.
    written: paths of what there will be.
  """

  def __init__(
    self,
    report: TextIO | None = None,
    table: Any = None,
    archive: zipfile.ZipFile | None = None,
    written: Sequence[pathlib.Path] = (),
  ):
    self.written = tuple(written)
    self._report, self._table, self._archive = report, table, archive
    self._predictions: list[dict[str, Any]] = []
    self._paths: list[str] = []
    self._features: list[np.ndarray] = []

  def add(
    self, path: str, prediction: Prediction, names: Sequence[str]
  ) -> None:
    """The next image.

    Args:
      names: of the classes in the prediction.
    """
    if self._report is not None:
      # As many digits as float32 has.
      probabilities = [float(f"{p:.7g}") for p in prediction.probabilities]
      rows = list(
        zip(prediction.classes.tolist(), names, probabilities, strict=True)
      )
      self._table.writerows(
        (path, rank, *row) for rank, row in enumerate(rows, start=1)
      )
      fields = ("class", "name", "probability")
      top = [dict(zip(fields, row, strict=True)) for row in rows]
      self._predictions.append({"path": path, "top": top})
    if self._archive is not None:
      if prediction.tokens is not None:
        name = f"tokens/{len(self._paths)}"
        _write_array(self._archive, name, prediction.tokens)
      self._paths.append(path)
      self._features.append(prediction.features)

  def finish(self, facts: Mapping[str, Any]) -> None:
    """Writes what is known at the end, of at least one image.

    Args:
      facts: of the prediction as a whole, as JSON; "patch_size" is (height,
        width).
    """
    if self._report is not None:
      json.dump({**facts, "predictions": self._predictions}, self._report)
      self._report.write("\n")
    if self._archive is not None:
      for name, x in (
        ("features", np.stack(self._features)),
        ("paths", np.array(self._paths, np.str_)),
        ("patch_size", np.array(facts["patch_size"], np.int32)),
      ):
        _write_array(self._archive, name, x)


@contextlib.contextmanager
def open_files(
  directory: pathlib.Path | None, wanted: Wanted
) -> Iterator[Files]:
  """`Files` in a directory, which is made; None: that keep nothing.

  There is no half-written file: each takes its name at the end, and after an
  exception there are those that there were before.

  Raises:
    OSError: one cannot be written.
  """
  if directory is None:
    yield Files()
    return
  directory.mkdir(parents=True, exist_ok=True)
  report = table = archive = None
  written = []
  with contextlib.ExitStack() as stack:

    def new(name) -> pathlib.Path:
      written.append(directory / name)
      return stack.enter_context(atomic.replacing(directory / name))

    if wanted.probabilities is not None:
      report = stack.enter_context(open(new(JSON), "w"))
      # A path may hold bytes that are no text.
      file = open(
        new(CSV), "w", newline="", encoding="utf-8", errors="surrogateescape"
      )
      table = csv.writer(stack.enter_context(file), lineterminator="\n")
      table.writerow(("path", "rank", "class", "name", "probability"))
    if wanted.features:
      archive = stack.enter_context(zipfile.ZipFile(new(NPZ), "w"))
    yield Files(report, table, archive, written)


def _write_array(archive: zipfile.ZipFile, name: str, x: np.ndarray) -> None:
  """Append an array; `numpy.savez` wants all of them at once."""
  with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
    np.lib.format.write_array(file, x, allow_pickle=False)


def read_names(path: str) -> list[str]:
  """Names of classes in a text file, one in each line.

  Raises:
    ValueError: it is no text, or a line is empty.
    OSError: it cannot be read.
  """
  lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
  names = [line.strip() for line in lines]
  if "" in names:
    number = names.index("") + 1
    raise ValueError(f"{path}: line {number} is empty: give a name in each")
  return names
