"""Records of what the code computes, to compare later code with.

  python -m tests.golden_records.make [NAME ...]

A change that means to change numbers runs it and says why. The records of
`resumable` are written by `--resumable`, and only where a run's format of
before is no longer to be read: later code must resume the runs that are there.
`--runs` writes those of tests/runs.py.
"""

import argparse
import json
import pathlib
import shutil
import tempfile
import zlib

import numpy as np

from tests import jax_settings, runs
from tests.golden_records import access
from tests.golden_records.cases import CASES, DIRECTORY, RESUMED, TINY

RECORDS = DIRECTORY / "records"
BATCHES = 3
SAVED = 3  # step of the checkpoint in a resumable run


def read(name: str):
  return json.loads((RECORDS / f"{name}.json").read_text())


def experiment(case):
  """An experiment with the overrides of all cases and its own."""
  return access.experiment(f"configs/{case.config}", (*TINY, *case.overrides))


def record(case):
  """All that is compared of a case, as JSON."""
  found = {"config": access.to_json(experiment(case))}
  run = access.open_run(experiment(case))
  initial = access.initial_parameters(run)
  found["parameters"] = {k: describe(x) for k, x in initial.items()}
  batches, position = access.next_batches(run, BATCHES)
  found["batches"] = [describe_batch(x) for x in batches]
  found["loader"] = json.loads(json.dumps(position))
  params = perturbed(initial)
  found["loss"] = access.loss(run, params, batches[0])
  if case.patch_size is not None:
    shown = images(case)
    values = access.outputs(run, params, shown, case.patch_size)
    found["outputs"] = {k: x.tolist() for k, x in values.items()}
  return found


def describe(x: np.ndarray):
  """Shape, type, sum, sum of squares and the first four numbers."""
  wide = x.astype(np.float64)
  numbers = [wide.sum(), np.square(wide).sum(), *wide.ravel()[:4]]
  return [list(x.shape), str(x.dtype), *(float(f"{n:.9g}") for n in numbers)]


def describe_batch(batch):
  arrays = access.batch_arrays(batch)
  whole = {name: arrays.pop(name) for name in ("labels", "index")}
  sums = {
    name: [list(x.shape), str(x.dtype), zlib.crc32(x.tobytes())]
    for name, x in arrays.items()
  }
  return {name: x.tolist() for name, x in whole.items()} | sums


def perturbed(arrays):
  """Arrays with noise of each path's own: some of the initial are zeros."""
  return {
    path: x
    + np.float32(0.1)
    * np.random.default_rng(zlib.crc32(path.encode()))
    .standard_normal(x.shape)
    .astype(np.float32)
    for path, x in arrays.items()
  }


def images(case):
  """Fixed images: two of one size, or a list of several sizes."""
  rng = np.random.default_rng(0)
  if len(case.sides) == 1:
    return rng.integers(0, 256, (2, *case.sides[0], 3), np.uint8)
  return [rng.integers(0, 256, (*hw, 3), np.uint8) for hw in case.sides]


def rows_of(workdir):
  """Rows of metrics.jsonl without times, and without norms of updates: Adam
  makes steps of full length out of gradients that are rounding alone."""
  return [
    {
      k: v
      for k, v in row.items()
      if not k.startswith(("speed/", "update_norm", "validation_time"))
    }
    for row in access.read_rows(workdir / "metrics.jsonl")
  ]


def arguments(case, workdir):
  overrides = (f"--config.{o}" for o in (*TINY, *case.overrides))
  return (
    f"--config=configs/{case.config}", *overrides, f"--workdir={workdir}"
  )  # fmt: skip


def resumed(workdir):
  """What the steps after the checkpoint made, as JSON."""
  saved = access.saved_parameters(workdir, 6)
  progress = access.checkpoint_directory(workdir, 6) / access.PROGRESS
  return {
    "rows": [row for row in rows_of(workdir) if row["step"] > SAVED],
    "parameters": {k: describe(x) for k, x in saved.items()},
    "progress": json.loads(progress.read_text()),
  }


def make_resumable(name: str):
  """Writes a run's directory as it was after its third step, and its end."""
  with tempfile.TemporaryDirectory() as directory:
    workdir = pathlib.Path(directory) / name
    access.train_main(*arguments(RESUMED[name], workdir))
    write(f"resumed_{name}", resumed(workdir))
    shutil.rmtree(access.checkpoint_directory(workdir, 6))
    lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (workdir / "metrics.jsonl").write_text("".join(lines[:SAVED]))
    path = workdir / "config.json"
    kept = json.loads(path.read_text())
    kept["provenance"]["command"] = ["train.py"]  # it names a directory
    path.write_text(json.dumps(kept, indent=2) + "\n")
    target = DIRECTORY / "resumable" / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(workdir, target, ignore=shutil.ignore_patterns("lock"))


def write(name: str, value) -> None:
  """JSON with a line for each parameter and each other value."""
  RECORDS.mkdir(exist_ok=True)
  lines = []
  for key, item in value.items():
    if isinstance(item, dict) and key in ("parameters", "config"):
      inner = ",\n".join(f" {_dump(k)}: {_dump(x)}" for k, x in item.items())
      lines.append(f"{_dump(key)}: {{\n{inner}}}")
    else:
      lines.append(f"{_dump(key)}: {_dump(item)}")
  text = "{\n" + ",\n".join(lines) + "}\n"
  assert json.loads(text) == value, name
  (RECORDS / f"{name}.json").write_text(text)


def _dump(value):
  return json.dumps(value, separators=(",", ":"))


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("names", nargs="*", help="cases; none: all")
  parser.add_argument("--resumable", action="store_true")
  parser.add_argument("--runs", action="store_true")
  args = parser.parse_args()
  if args.resumable:
    for name in args.names or RESUMED:
      make_resumable(name)
  elif args.runs:
    with tempfile.TemporaryDirectory() as directory:
      for name in args.names or runs.RUNS:
        workdir = runs.trained(name, pathlib.Path(directory))
        write(f"run_{name}", {"rows": rows_of(workdir)})
  else:
    for name in args.names or CASES:
      write(name, record(CASES[name]))


if __name__ == "__main__":
  jax_settings.simulate_devices()
  main()
