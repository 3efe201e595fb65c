"""Distillation of FlexiViT on the digits, against labels at the same budget.

  python -m benchmarks.distillation

For each of three seeds trains a teacher (configs/vit_digits.py:4, 3,000 steps)
and, in 800 steps each,

- FlexiViT by labels, from scratch: configs/flexivit_digits.py,
- FlexiViT distilled: configs/flexivit_digits_distill.py,
- the two halves of that recipe: distilled from scratch, and by labels from the
  teacher's weights,

by train.py, and evaluates all on the 500 test images at every patch size by
evaluate.py. Writes benchmarks/results/distillation.json and prints the table of
docs/results.md. About ten minutes on two idle cores.
"""

import argparse
import json
import math
import pathlib
import statistics
import tempfile

from benchmarks import machine, markdown
from benchmarks.process import ROOT, python

RESULTS = ROOT / "benchmarks" / "results" / "distillation.json"
SEEDS = (0, 1, 2)
SIZES = (4, 6, 8, 12)
STEPS = 800
TEACHER = "teacher, patches of 4 px, 3,000 steps"
SCRATCH = "labels, from scratch"
DISTILLED = "distilled, from the teacher's weights"
LABELS = "configs/flexivit_digits.py"
DISTILL = "configs/flexivit_digits_distill.py:{teacher}"
SHORT = (f"total_steps={STEPS}", "eval_every=400", "save_every=400")
STUDENTS = {
  SCRATCH: (LABELS, SHORT),
  DISTILLED: (DISTILL, SHORT),
  "distilled, from scratch": (DISTILL, (*SHORT, "init_from=None")),
  "labels, from the teacher's weights": (
    LABELS,
    (*SHORT, "init_from={'checkpoint':'{teacher}'}"),
  ),
}


def main():
  argparse.ArgumentParser(description=__doc__).parse_args()
  with tempfile.TemporaryDirectory() as directory:
    runs = [
      of_seed(pathlib.Path(directory) / str(seed), seed) for seed in SEEDS
    ]
  results = {
    "machine": machine.describe(),
    "seeds": SEEDS,
    "top1": {name: [run[name] for run in runs] for name in runs[0]},
  }
  found = results["top1"]
  gains = [
    100 * (mean(own) - mean(other))
    for own, other in zip(found[DISTILLED], found[SCRATCH], strict=True)
  ]
  results["gain"] = {
    "mean": statistics.mean(gains),
    "standard_error": statistics.stdev(gains) / math.sqrt(len(gains)),
    "of_seeds": gains,
  }
  RESULTS.write_text(json.dumps(results, indent=2) + "\n")
  print(table(found))
  print(f"distilled less from scratch, mean over sizes: {results['gain']}")


def of_seed(workdir, seed) -> dict[str, dict[str, float]]:
  """Top-1 by patch size of the teacher and its students."""
  teacher = workdir / "teacher"
  train("configs/vit_digits.py:4", teacher, seed)
  found = {TEACHER: evaluate(teacher)}
  for i, (name, (config, overrides)) in enumerate(STUDENTS.items()):
    overrides = [x.replace("{teacher}", str(teacher)) for x in overrides]
    path = workdir / str(i)
    train(config.format(teacher=teacher), path, seed, *overrides)
    found[name] = evaluate(path)
    print(seed, name, found[name], flush=True)
  return found


def train(config, workdir, seed, *overrides) -> None:
  python(
    *("train.py", f"--config={config}", f"--workdir={workdir}"),
    *(f"--config.{x}" for x in (f"seed={seed}", *overrides)),
  )


def evaluate(workdir) -> dict[str, float]:
  python(
    *("evaluate.py", f"--checkpoint={workdir}", "--no_timing"),
    *(f"--patch_sizes={','.join(map(str, SIZES))}", f"--output={workdir}/eval"),
  )
  results = json.loads((workdir / "eval" / "results.json").read_text())
  return {str(p["patch_hw"][0]): p["top1"] for p in results["points"]}


def mean(top1: dict[str, float]) -> float:
  return statistics.mean(top1.values())


def table(found) -> str:
  """Means over seeds as a Markdown table; the last column has its error."""
  rows = []
  for name, seeds in found.items():
    sizes = [
      f"{100 * statistics.mean(x[str(p)] for x in seeds):.1f}" for p in SIZES
    ]
    means = [100 * mean(x) for x in seeds]
    error = statistics.stdev(means) / math.sqrt(len(means))
    rows.append([name, *sizes, f"{statistics.mean(means):.1f} +- {error:.1f}"])
  head = ["top-1, %", *(f"{p} px" for p in SIZES), "mean"]
  return markdown.table(head, rows)


if __name__ == "__main__":
  main()
