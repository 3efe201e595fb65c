"""Samples of digits, judged by a classifier: three seeds.

  python -m benchmarks.diffusion

Trains a classifier (configs/flexivit_digits.py) and, for each seed, a diffusion
transformer (configs/dit_digits.py) by train.py, samples 50 images of each class
at several strengths of guidance, and with both samplers (flexivit sample),
and has them judged; under half an hour on two CPU cores. Writes
benchmarks/results/diffusion.json, and of the first seed the sheet
docs/figures/samples_digits.png. `--patch_size 1` makes each pixel a token, and
writes diffusion_1.json; `--seeds 0` trains one seed.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import tempfile
import time

from benchmarks import machine, markdown, sample_metrics
from benchmarks.process import ROOT, python

RESULTS = ROOT / "benchmarks" / "results"
FIGURE = ROOT / "docs" / "figures" / "samples_digits.png"
COUNT = 50  # of each class
# The judge's, of those it was trained at: it is the most accurate there.
JUDGE_PATCH_SIZE = "6"
# Label: arguments of flexivit sample. The first is the config's own.
SETTINGS = {
  "guidance 1.5": (),
  "guidance 1": ("--guidance=1",),
  "guidance 2": ("--guidance=2",),
  "guidance 4": ("--guidance=4",),
  "guidance 1.5, eta 1": ("--eta=1",),
  "guidance 1.5, 10 steps": ("--steps=10",),
}
KEPT = (
  *("asked_share", "frechet_distance", "real_frechet_distance"),
  *("precision", "recall", "judge_accuracy", "asked_share_by_class"),
)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--patch_size", default="2")
  parser.add_argument("--seeds", default="0,1,2")
  args = parser.parse_args()
  name = "diffusion" + ("" if args.patch_size == "2" else f"_{args.patch_size}")
  seeds = [int(seed) for seed in args.seeds.split(",")]
  with tempfile.TemporaryDirectory() as directory:
    directory = pathlib.Path(directory)
    train("configs/flexivit_digits.py", directory / "judge")
    runs = [run(directory, args.patch_size, seed) for seed in seeds]
    if name == "diffusion":
      shutil.copy(directory / f"samples_{seeds[0]}.png", FIGURE)
  results = {"machine": machine.describe(), "count": COUNT, "runs": runs}
  path = RESULTS / f"{name}.json"
  path.write_text(json.dumps(results, indent=2) + "\n")
  print(table(runs))


def run(directory, patch_size, seed):
  """Of one seed: seconds of training, and what is said of its samples."""
  workdir = directory / f"dit_{seed}"
  config = f"configs/dit_digits.py:{patch_size}"
  seconds = train(config, workdir, f"--config.seed={seed}")
  found = {}
  for label, arguments in SETTINGS.items():
    output = directory / "samples"
    python(
      *("-m", "flexivit_jax", "sample", f"--checkpoint={workdir}"),
      *(f"--output={output}", f"--count={COUNT}", f"--seed={seed}"),
      *arguments,
    )
    judged = sample_metrics.judge(
      workdir, output / "samples.npz", directory / "judge", JUDGE_PATCH_SIZE
    )
    found[label] = {key: judged[key] for key in KEPT}
    print(seed, label, found[label], flush=True)
  # The sheet that readers see: 8 of each class, as the config samples them.
  python(
    *("-m", "flexivit_jax", "sample", f"--checkpoint={workdir}"),
    *(f"--output={directory / 'sheet'}", f"--seed={seed}"),
  )
  sheet = directory / "sheet" / "samples.png"
  shutil.copy(sheet, directory / f"samples_{seed}.png")
  rows = [json.loads(x) for x in open(workdir / "metrics.jsonl")]
  losses = [x["validation/loss"] for x in rows if "validation/loss" in x]
  return {
    "seed": seed,
    "training_s": round(seconds),
    "validation_loss": losses[-1],
    "settings": found,
  }


def train(config, workdir, *overrides) -> float:
  start = time.perf_counter()
  python("train.py", f"--config={config}", f"--workdir={workdir}", *overrides)
  return time.perf_counter() - start


def table(runs) -> str:
  """Markdown: mean and range over the seeds."""
  header = ("samples", "asked class", "Frechet distance", "precision", "recall")
  rows = []
  for label in runs[0]["settings"]:
    of_seeds = [each["settings"][label] for each in runs]

    def cell(key, form, of_seeds=of_seeds):
      values = [x[key] for x in of_seeds]
      low, high = (form.format(f(values)) for f in (min, max))
      mean = form.format(statistics.mean(values))
      return mean if low == high else f"{mean} ({low} to {high})"

    rows.append(
      (
        label,
        cell("asked_share", "{:.1%}"),
        cell("frechet_distance", "{:.2f}"),
        cell("precision", "{:.1%}"),
        cell("recall", "{:.1%}"),
      )
    )
  return markdown.table(header, rows)


if __name__ == "__main__":
  main()
