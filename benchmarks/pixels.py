"""Every pixel a token, against patches of 2 px, in three tasks.

  python -m benchmarks.pixels
  python -m benchmarks.pixels --data DATA --steps 20000

The first on the embedded digits, at their own 8 x 8 pixels, on a CPU; the
second on CIFAR-10 at 16 px, for one GPU: DATA is a folder, or tfds:cifar10.
For each of three seeds and each patch size trains by train.py

- a classifier;
- a masked autoencoder, whose encoder is probed with 25 images of each class
  by `flexivit few-shot`, and then trained as that classifier
  was;
- a diffusion transformer, whose samples, 50 of each class, are judged by the
  classifier of patches of 2 px and the first seed.

All else is the same for both sizes, the number of steps too: a token for each
pixel costs four times as much. Writes benchmarks/results/pixels.json (of other
data --output) after each seed and prints the table of docs/results.md; what is
in --workdir is not trained again.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import statistics

from benchmarks import machine, markdown, sample_metrics
from benchmarks.process import ROOT, python
from flexivit_jax.checkpoints.run_metrics import read_rows

RESULTS = ROOT / "benchmarks" / "results" / "pixels.json"
SIZES = (1, 2)
DIGITS = "digits"
# Of the row, in the order of its columns: name, scale, digits.
COLUMNS = {
  "top1": ("classified, top-1 %", 100, 1),
  "relative_loss": ("MAE, relative loss", 1, 3),
  "probed": ("probed, 25 shots, top-1 %", 100, 1),
  "tuned": ("fine-tuned, top-1 %", 100, 1),
  "frechet_distance": ("samples, Frechet distance", 1, 2),
  "asked_share": ("of the asked class, %", 100, 1),
}


@dataclasses.dataclass(frozen=True)
class Recipes:
  """Configs of the three tasks at one patch size, with what differs.

  Attributes:
    shots: arguments of flexivit few-shot that name the data.
  """

  classifier: tuple[str, ...]
  autoencoder: tuple[str, ...]
  diffusion: tuple[str, ...]
  shots: tuple[str, ...]


def recipes(data: str, p: int) -> Recipes:
  if data != DIGITS:
    dit = {1: "pit_dit_cifar", 2: "dit_cifar"}[p]
    return Recipes(
      (f"configs/pit_trend.py:{data},{p},16",),
      (f"configs/pit_mae_cifar.py:{data},{p},16", "model.pool=gap"),
      (f"configs/{dit}.py:{data},16",),
      (
        *(f"--data={named(data)}", "--resolutions=16"),
        *("--train_split=train[2%:]", "--validation_split=train[:2%]"),
      ),
    )
  side = 8
  own = (
    *(f"{split}.source.side={side}" for split in ("train", "validation")),
    f"test.source.side={side}",
    f"model.kernel_hw=({p},{p})",
    f"model.position.size=({side // p},{side // p})",
  )
  fixed = f"patch_size={{'name':'fixed','size':{p}}}"
  return Recipes(
    (f"configs/vit_digits.py:{p}", *own),
    # A pixel is the mean of its patch: the targets are normalised by image.
    ("configs/mae_digits.py", *own, fixed, "task.target=image"),
    (f"configs/dit_digits.py:{p}",),
    (
      *(f"--data={DIGITS}", f"--resolutions={side}"),
      *("--train_split=train[200:]", "--validation_split=train[:200]"),
    ),
  )


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add("--data", default=DIGITS)
  add("--workdir", type=pathlib.Path, default=pathlib.Path("runs/pixels"))
  add("--steps", type=int, help="of each run; default: the configs'")
  add("--seeds", type=int, default=3)
  add("--output", type=pathlib.Path, default=RESULTS)
  add("--config", nargs="*", default=[], help="overrides, key=value")
  args = parser.parse_args()
  results = {
    "machine": machine.describe(),
    "data": args.data,
    "steps": args.steps,
    "runs": [],
  }
  for seed in range(args.seeds):
    # Patches of 2 px first: the judge is among them.
    for p in reversed(SIZES):
      found = of_run(args, recipes(args.data, p), p, seed)
      results["runs"].append({"patch_size": p, "seed": seed, **found})
      print(results["runs"][-1], flush=True)
    args.output.write_text(json.dumps(results, indent=2) + "\n")
  print(table(results["runs"]))


def of_run(args, chosen: Recipes, p: int, seed: int) -> dict[str, float]:
  """What the table shows of a patch size and a seed."""
  names = ("classifier", "mae", "tuned", "dit")
  classifier, mae, tuned, dit = (
    args.workdir / f"{name}_{p}_{seed}" for name in names
  )
  judge = args.workdir / "classifier_2_0"
  train(args, seed, classifier, *chosen.classifier)
  train(args, seed, mae, *chosen.autoencoder)
  begin = f"init_from={{'checkpoint':'{mae}','dont_load':('head/.*',)}}"
  train(args, seed, tuned, *chosen.classifier, begin)
  train(args, seed, dit, *chosen.diffusion)
  python(
    *("-m", "flexivit_jax", "few-shot", f"--checkpoint={mae}"),
    *("--shots=25", "--penalty=1,4,16,64,256,1024", f"--patch_sizes={p}"),
    *(*chosen.shots, f"--output={mae}/few_shot"),
  )
  python(
    *("-m", "flexivit_jax", "sample", f"--checkpoint={dit}"),
    *("--count=50", f"--seed={seed}"),
    f"--output={dit}/samples",
  )
  shots = json.loads((mae / "few_shot" / "few_shot.json").read_text())
  judged = sample_metrics.judge(dit, dit / "samples" / "samples.npz", judge)
  point = evaluate(classifier)
  return {
    "tokens": point["tokens"],
    "multiply_adds": point["multiply_adds"],
    "top1": point["top1"],
    "relative_loss": last(mae, f"validation/relative_loss@{p}"),
    "probed": shots["points"][0]["mean"],
    "tuned": evaluate(tuned)["top1"],
    "diffusion_loss": last(dit, "validation/loss"),
    "frechet_distance": judged["frechet_distance"],
    "asked_share": judged["asked_share"],
    "judge_accuracy": judged["judge_accuracy"],
  }


def train(args, seed, workdir, config, *overrides) -> None:
  if args.steps is not None:
    # What must come before the end does.
    early = tuple(
      f"{name}={args.steps}"
      for name in ("total_steps", "eval_every", "save_every")
    )
    warm = f"optimizer.schedule.warmup_steps={args.steps // 20}"
    overrides += ("total_epochs=None", *early, warm)
  python(
    *("train.py", f"--config={config}", f"--workdir={workdir}"),
    *(f"--config.{x}" for x in (f"seed={seed}", *overrides, *args.config)),
  )


def evaluate(workdir) -> dict[str, float]:
  """Of its test images, at its own patch size."""
  python(
    *("evaluate.py", f"--checkpoint={workdir}", "--no_timing"),
    f"--output={workdir}/eval",
  )
  results = json.loads((workdir / "eval" / "results.json").read_text())
  (point,) = results["points"]
  return point


def last(workdir, name) -> float:
  """The newest of its measurements of that name."""
  rows = read_rows(workdir / "metrics.jsonl")
  return [row for row in rows if name in row][-1][name]


def named(data: str) -> str:
  """As flexivit few-shot takes what a recipe is given."""
  return data if ":" in data else f"folder:{data}"


def table(runs) -> str:
  """Means over the seeds, with their standard errors."""
  rows = []
  for p in SIZES:
    own = [run for run in runs if run["patch_size"] == p]
    cost = own[0]["multiply_adds"] / 1e9
    cells = [f"{p} px", f"{own[0]['tokens']:.0f}", f"{cost:.3g}"]
    for name, (_, scale, digits) in COLUMNS.items():
      values = [scale * run[name] for run in own]
      cell = f"{statistics.mean(values):.{digits}f}"
      if len(values) > 1:
        error = statistics.stdev(values) / math.sqrt(len(values))
        cell += f" +- {error:.{digits}f}"
      cells.append(cell)
    rows.append(cells)
  titles = (title for title, *_ in COLUMNS.values())
  return markdown.table(["patch", "tokens", "GFLOPs", *titles], rows)


if __name__ == "__main__":
  main()
