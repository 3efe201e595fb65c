"""Other patch sizes for a trained plain ViT: top-1 before and after.

  python -m benchmarks.repatch

Trains, by train.py, a ViT of 14 px at 56 px on the digits, and one of 6 px at
24 px; converts them by `flexivit convert`, and evaluates by
evaluate.py. About ten minutes on two CPU cores. Writes
benchmarks/results/repatch.json.
"""

import argparse
import json
import pathlib
import statistics
import tempfile

import numpy as np

from benchmarks import machine, markdown
from benchmarks.process import ROOT, python
from flexivit_jax.checkpoints import load, repatch, save
from flexivit_jax.checkpoints.model import StoredModel
from flexivit_jax.core import pi_resize

RESULTS = ROOT / "benchmarks" / "results" / "repatch.json"
SEEDS = (0, 1, 2)

# (patch, image) of the same 16 tokens as 14 px at 56 px.
SAME_TOKENS = ((14, 56), (16, 64), (12, 48), (8, 32), (28, 112))
# Patch sizes at 24 px, of a ViT of 6 px whose kernel is kept at 32x32.
KEPT_SIZES = (4, 6, 8, 12)


def main():
  argparse.ArgumentParser(description=__doc__).parse_args()
  runs = [run(seed) for seed in SEEDS]
  results = {"machine": machine.describe(), "runs": runs}
  RESULTS.write_text(json.dumps(results, indent=2) + "\n")
  for table in tables(runs):
    print(table, end="\n\n")


def run(seed: int) -> dict:
  """Top-1 of one seed: {patch@image: ...} and {way of keeping: {size: ...}}."""
  with tempfile.TemporaryDirectory() as name:
    directory = pathlib.Path(name)
    train(directory / "14", seed, 14, 56)
    same = {}
    for patch, image in SAME_TOKENS:
      converted = directory / f"{patch}at{image}"
      python(
        "-m",
        "flexivit_jax",
        "convert",
        directory / "14",
        converted,
        "--format=timm",
        f"--patch={patch}",
        f"--image={image}",
      )
      same[f"{patch}@{image}"] = evaluate(converted, image, [patch])[patch]
    train(directory / "6", seed, 6, 24)
    trained = load.read(directory / "6")
    kept = {"at 6x6": evaluate(directory / "6", 24, KEPT_SIZES)}
    for label, way in WAYS.items():
      path = directory / label.replace(" ", "_")
      save.save(at_32(trained, way), path, "orbax")
      kept[label] = evaluate(path, 24, KEPT_SIZES)
  print(seed, same, kept, flush=True)
  return {"seed": seed, "same_tokens": same, "kept": kept}


# How a kernel of 6x6 comes to be stored at 32x32.
WAYS = {
  "at 32x32 by B^T": pi_resize.store_kernel,
  "at 32x32 by PI-resize": pi_resize.pi_resize,
}


def at_32(checkpoint: StoredModel, way) -> StoredModel:
  kernel = checkpoint.arrays[repatch.KERNEL]
  stored = way(kernel.astype(np.float64), (32, 32)).astype(kernel.dtype)
  return StoredModel(
    checkpoint.model.clone(kernel_hw=(32, 32)),
    {**checkpoint.arrays, repatch.KERNEL: stored},
    checkpoint.spec,
  )


def train(workdir, seed, patch, side):
  python(
    "train.py",
    f"--config=configs/vit_digits.py:{patch}",
    f"--workdir={workdir}",
    f"--config.seed={seed}",
    f"--config.model.kernel_hw=({patch},{patch})",
    "--config.model.position.size=(4,4)",
    *(f"--config.{x}.source.side={side}" for x in ("train", "validation")),
  )


def evaluate(checkpoint, image, sizes) -> dict[int, float]:
  with tempfile.TemporaryDirectory() as output:
    python(
      "evaluate.py",
      f"--checkpoint={checkpoint}",
      "--data=digits",
      f"--resolution={image}",
      f"--patch_sizes={','.join(map(str, sizes))}",
      f"--output={output}",
    )
    results = json.loads((pathlib.Path(output) / "results.json").read_text())
  return {p["patch_hw"][0]: p["top1"] for p in results["points"]}


def tables(runs):
  """Means over the seeds, in percent, as Markdown."""

  def mean(values):
    return f"{100 * statistics.mean(values):.1f}"

  names = [f"{p} px at {i} px" for p, i in SAME_TOKENS]
  same = [
    mean(r["same_tokens"][f"{p}@{i}"] for r in runs) for p, i in SAME_TOKENS
  ]
  yield markdown.table(("16 tokens", *names), [("top-1 %", *same)])
  rows = []
  for label in runs[0]["kept"]:
    # From JSON, keys are texts.
    tops = [{int(k): v for k, v in r["kept"][label].items()} for r in runs]
    rows.append((label, *(mean(t[size] for t in tops) for size in KEPT_SIZES)))
  head = ("kernel of a ViT of 6 px", *(f"{p} px" for p in KEPT_SIZES))
  yield markdown.table(head, rows)


if __name__ == "__main__":
  main()
