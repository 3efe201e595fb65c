"""What loading a FlexiViT-B takes, against reading every array of its file.

  python -m benchmarks.loading

Each figure is the median of processes of their own, with imports left out and
the file in the page cache; memory is the growth of the largest resident set.
"load" ends with a model on the device, checked against its shapes. Writes
benchmarks/results/loading.json.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from benchmarks import machine, markdown
from flexivit_jax.checkpoints import load, origin, safetensors, save
from flexivit_jax.checkpoints import model as model_lib
from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.models import sizes, vit
from flexivit_jax.nn import pooling
from flexivit_jax.nn.positions import learned_grid

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "loading.json"


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.child:
    child(*args.child)
    return
  rows = []
  with tempfile.TemporaryDirectory() as directory:
    for format, name in (("big_vision", "b.npz"), ("timm", "b")):
      path = pathlib.Path(directory) / name
      save.save(made_up(), path, format)
      # A published file has no sum beside it that would have to be checked.
      for sums in ("b.npz.sha256", "b/manifest.sha256"):
        (pathlib.Path(directory) / sums).unlink(missing_ok=True)
      file = path if path.is_file() else path / load.WEIGHTS
      for how in ("read every array", "load"):
        measured = [measure(how, path) for _ in range(args.rounds)]
        rows.append(
          {
            "format": format,
            "how": how,
            "file_bytes": file.stat().st_size,
            **{
              key: statistics.median(m[key] for m in measured)
              for key in measured[0]
            },
          }
        )
  results = {"machine": machine.describe(), "rows": rows}
  RESULTS.write_text(json.dumps(results, indent=2) + "\n")
  print(table(rows))


def made_up() -> model_lib.StoredModel:
  """A FlexiViT-B of random numbers, which do not compress."""
  model = vit.ViT(
    size=sizes.SIZES["B"],
    position=learned_grid.LearnedGrid((7, 7)),
    pool=pooling.ClassToken(),
    num_classes=1000,
  )
  rng = np.random.default_rng(0)
  arrays = {
    name: rng.standard_normal(x.shape, np.float32)
    for name, x in parameters.shapes(model).items()
  }
  return model_lib.StoredModel(model, arrays, origin.Spec("made up", ""))


def measure(how: str, path) -> dict[str, float]:
  done = subprocess.run(  # noqa: S603
    [sys.executable, "-m", "benchmarks.loading", "--child", how, str(path)],
    cwd=ROOT,
    check=True,
    stdout=subprocess.PIPE,
  )
  return json.loads(done.stdout)


def child(how: str, path: str) -> None:
  """One measurement, in a process of its own."""
  jax.devices()
  before = resident("VmRSS")
  start = time.perf_counter()
  if how == "load":
    held = load.load(path)
    jax.block_until_ready(held.params)
  elif path.endswith(".npz"):
    with np.load(path, allow_pickle=False) as file:
      held = {name: file[name] for name in file.files}
  else:
    held = safetensors.read(pathlib.Path(path) / load.WEIGHTS)
  seconds = time.perf_counter() - start
  grown = resident("VmHWM") - before
  del held
  print(json.dumps({"seconds": seconds, "bytes": grown}))


def resident(name: str) -> int:
  """Bytes in memory, now (VmRSS) or at most so far (VmHWM); Linux."""
  # Not getrusage, whose maximum a child takes over from its parent.
  status = pathlib.Path("/proc/self/status").read_text()
  return int(status.split(f"{name}:")[1].split()[0]) * 1024


def table(rows) -> str:
  head = ("FlexiViT-B", "s", "of reading", "memory, MB", "of the file")
  reading = {r["format"]: r["seconds"] for r in rows if r["how"] != "load"}
  lines = [
    (
      f"{r['format']}: {r['how']}",
      f"{r['seconds']:.2f}",
      f"{r['seconds'] / reading[r['format']]:.1f}",
      f"{r['bytes'] / 1e6:.0f}",
      f"{r['bytes'] / r['file_bytes']:.2f}",
    )
    for r in rows
  ]
  return markdown.table(head, lines)


if __name__ == "__main__":
  main()
