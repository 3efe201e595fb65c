"""FlexiViT against plain ViTs on CIFAR-10, and from patches to pixels.

  python -m benchmarks.cifar --data DATA

DATA as for configs/flexivit_cifar.py: a folder, or tfds:cifar10. For each of
three seeds trains by train.py

- FlexiViT for --steps steps, and a plain ViT at each of its patch sizes for
  half as many, with the same batches and augmentation; all are evaluated at
  every patch size;
- with configs/pit_trend.py at 16 px separate models at patches of 8, 4, 2 and
  1 px for half as many steps; tokens and FLOPs stand beside their accuracy.

For one GPU. Writes benchmarks/results/cifar.json after each model, and prints
the tables of docs/results.md; what is in --workdir is not trained again.
"""

import argparse
import json
import math
import pathlib
import statistics
import time

from benchmarks import machine, markdown
from benchmarks.process import ROOT, python
from configs.flexivit_cifar import SIZES

RESULTS = ROOT / "benchmarks" / "results" / "cifar.json"
TREND = (8, 4, 2, 1)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add("--data", required=True)
  add("--workdir", type=pathlib.Path, default=pathlib.Path("runs/cifar"))
  add("--steps", type=int, default=20_000)
  add("--seeds", type=int, default=3)
  add("--output", type=pathlib.Path, default=RESULTS)
  add("--config", nargs="*", default=[], help="overrides, key=value")
  args = parser.parse_args()
  results = {"machine": machine.describe(), "steps": args.steps, "runs": []}
  every = ",".join(map(str, SIZES))
  for seed in range(args.seeds):
    models = [("flexivit", f"configs/flexivit_cifar.py:{args.data}", every, 1)]
    models += [
      (f"vit{p}", f"configs/flexivit_cifar.py:{args.data},{p}", every, 2)
      for p in SIZES
    ]
    models += [
      (f"trend{p}", f"configs/pit_trend.py:{args.data},{p}", str(p), 2)
      for p in TREND
    ]
    for name, config, sizes, shorter in models:
      workdir = args.workdir / f"{name}_{seed}"
      steps = args.steps // shorter
      start = time.perf_counter()
      train(config, workdir, seed, steps, args.config)
      trained = time.perf_counter() - start
      results["runs"].append(
        {
          "model": name,
          "seed": seed,
          "steps": steps,
          "train_s": trained,
          "points": evaluate(workdir, sizes),
        }
      )
      args.output.write_text(json.dumps(results, indent=2) + "\n")
      print(name, seed, results["runs"][-1]["points"], flush=True)
  print(table(results["runs"]))
  print(trend(results["runs"]))


def train(config, workdir, seed, steps, overrides) -> None:
  length = ("total_epochs=None", f"total_steps={steps}")
  overrides = (f"seed={seed}", *length, *overrides)
  python(
    *("train.py", f"--config={config}", f"--workdir={workdir}"),
    *(f"--config.{x}" for x in overrides),
  )


def evaluate(workdir, sizes) -> dict[str, dict[str, float]]:
  """By patch size: top-1, tokens and multiply-adds."""
  python(
    *("evaluate.py", f"--checkpoint={workdir}", "--no_timing"),
    *(f"--patch_sizes={sizes}", f"--output={workdir}/eval"),
  )
  results = json.loads((workdir / "eval" / "results.json").read_text())
  keys = ("top1", "tokens", "multiply_adds")
  return {
    str(p["patch_hw"][0]): {key: p[key] for key in keys}
    for p in results["points"]
  }


def of_seeds(runs, model, size) -> str:
  """Mean top-1 in % and its standard error over seeds."""
  top1 = [
    100 * r["points"][str(size)]["top1"] for r in runs if r["model"] == model
  ]
  mean = f"{statistics.mean(top1):.1f}"
  if len(top1) < 2:
    return mean
  return f"{mean} +- {statistics.stdev(top1) / math.sqrt(len(top1)):.1f}"


def table(runs) -> str:
  models = ["flexivit", *(f"vit{p}" for p in SIZES)]
  rows = [[m, *(of_seeds(runs, m, p) for p in SIZES)] for m in models]
  return markdown.table(["top-1, %", *(f"{p} px" for p in SIZES)], rows)


def trend(runs) -> str:
  rows = []
  for p in TREND:
    points = [r["points"][str(p)] for r in runs if r["model"] == f"trend{p}"]
    rows.append(
      [
        f"{p} px",
        f"{points[0]['tokens']:.0f}",
        f"{points[0]['multiply_adds'] / 1e9:.3g}",
        of_seeds(runs, f"trend{p}", p),
      ]
    )
  return markdown.table(["patch", "tokens", "GFLOPs", "top-1, %"], rows)


if __name__ == "__main__":
  main()
