"""The main job and its baselines: three seeds, every patch size.

  python -m benchmarks.digits

Trains by train.py and evaluates by evaluate.py, as processes; about 15 minutes
on two CPU cores. Writes benchmarks/results/digits.json and the README's figure,
docs/figures/digits.png. `--draw` draws the figure again from the JSON.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time

from matplotlib.figure import Figure

from benchmarks import machine, markdown
from benchmarks.process import ROOT, python
from flexivit_jax.evaluation.report.figures.style import COLOURS

RESULTS = ROOT / "benchmarks" / "results" / "digits.json"
FIGURE = ROOT / "docs" / "figures" / "digits.png"
SEEDS = (0, 1, 2)
SIZES = (4, 6, 8, 12)

# Label: (config, overrides).
MODELS = {
  "FlexiViT trained at 4, 6, 8 and 12 px": ("flexivit_digits", ()),
  "plain ViT trained at 6 px, kernel stored at 32x32": ("vit_digits", ()),
  "plain ViT trained at 6 px, kernel stored at 6x6": (
    "vit_digits",
    ("model.kernel_hw=(6,6)", "model.position.size=(4,4)"),
  ),
}


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--draw", action="store_true")
  if not parser.parse_args().draw:
    results = {"machine": machine.describe(), "models": run_all()}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
  results = json.loads(RESULTS.read_text())
  print(table(results["models"]))
  draw(results["models"], FIGURE)


def run_all():
  models = {}
  for label, (config, overrides) in MODELS.items():
    models[label] = [run(config, overrides, seed) for seed in SEEDS]
  return models


def run(config, overrides, seed):
  """Trains and evaluates one seed; returns top-1 per size and the times."""
  with tempfile.TemporaryDirectory() as directory:
    workdir = pathlib.Path(directory) / "run"
    start = time.perf_counter()
    command(
      "train.py",
      f"--config=configs/{config}.py",
      f"--workdir={workdir}",
      f"--config.seed={seed}",
      *(f"--config.{o}" for o in overrides),
    )
    trained = time.perf_counter()
    command(
      "evaluate.py",
      f"--checkpoint={workdir}",
      f"--patch_sizes={','.join(map(str, SIZES))}",
      f"--output={workdir}/eval",
    )
    evaluated = time.perf_counter()
    results = json.loads((workdir / "eval" / "results.json").read_text())
  top1 = {str(p["patch_hw"][0]): p["top1"] for p in results["points"]}
  print(config, overrides, seed, top1, flush=True)
  return {
    "seed": seed,
    "top1": top1,
    "train_s": trained - start,
    "evaluate_s": evaluated - trained,
  }


def command(script, *arguments):
  # An empty compilation cache, so that compiling counts.
  with tempfile.TemporaryDirectory() as cache:
    python(script, *arguments, JAX_COMPILATION_CACHE_DIR=cache)


def mean(runs, size):
  return 100 * statistics.mean(run["top1"][str(size)] for run in runs)


def table(models) -> str:
  """Means over seeds as a Markdown table."""
  head = ["model", *(f"{p} px" for p in SIZES), "train + evaluate, s"]
  rows = []
  for label, runs in models.items():
    seconds = statistics.mean(r["train_s"] + r["evaluate_s"] for r in runs)
    accuracies = [f"{mean(runs, p):.1f}" for p in SIZES]
    rows.append([label, *accuracies, f"{seconds:.0f}"])
  return markdown.table(head, rows)


def draw(models, path):
  """Every seed as a dot, the mean of the seeds as a line."""
  figure = Figure(figsize=(7, 4.2), layout="constrained")
  axes = figure.add_subplot()
  for (label, runs), colour, marker in zip(models.items(), COLOURS, "os^"):
    means = [mean(runs, p) for p in SIZES]
    axes.plot(SIZES, means, color=colour, marker=marker, label=label)
    for run in runs:
      top1 = [100 * run["top1"][str(p)] for p in SIZES]
      axes.plot(SIZES, top1, ".", color=colour, alpha=0.5)
  tokens = [f"{p} px\n{(24 // p) ** 2} tokens" for p in SIZES]
  axes.set_xticks(SIZES, tokens)
  axes.set_ylim(0, 103)
  axes.set_xlabel("patch size at evaluation, tokens per image")
  axes.set_ylabel("top-1 on 500 test digits (%)")
  axes.set_title("One checkpoint at every patch size (three seeds)")
  axes.grid(alpha=0.3)
  axes.legend(loc="lower right", fontsize="small")
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, dpi=150)


if __name__ == "__main__":
  main()
