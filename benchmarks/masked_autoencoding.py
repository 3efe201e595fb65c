"""Masked autoencoding of the digits: what it answers, and what its encoder is
good for.

  python -m benchmarks.masked_autoencoding

For each of three seeds pre-trains configs/mae_digits.py by train.py, without
labels, and

- takes its relative loss on the validation images at each patch size, beside
  that of constants: the mean of the training images' targets for each place
  and pixel, which the mean predictor of relative_loss does not know;
- probes its encoder and the random one that it began with by
  `flexivit few-shot`, on the 500 test images, with the
  penalty chosen on the validation images;
- trains configs/flexivit_digits.py on 200 labelled images in 400 steps, from
  that encoder and from scratch, and evaluates both on the test images by
  evaluate.py.

Writes benchmarks/results/masked_autoencoding.json and prints the tables of
docs/results.md. About ten minutes on two idle cores.
"""

import argparse
import json
import math
import pathlib
import statistics
import tempfile

import jax.numpy as jnp
import numpy as np

from benchmarks import machine, markdown
from benchmarks.process import ROOT, python
from flexivit_jax.checkpoints.run_metrics import read_rows
from flexivit_jax.config import build
from flexivit_jax.core.tokens import patchify
from flexivit_jax.tasks import mae_target

RESULTS = ROOT / "benchmarks" / "results" / "masked_autoencoding.json"
SEEDS = (0, 1, 2)
SIZES = (4, 6, 8, 12)
SHOTS = (5, 25)
CONFIG = "configs/mae_digits.py"
LABELLED = "train[200:400]"
SHORT = ("total_steps=400", "eval_every=400", "save_every=400")
PRETRAINED, RANDOM = "pre-trained", "random"
TUNED, SCRATCH = "from the pre-trained encoder", "from scratch"
CONSTANTS = "constants for each place"


def main():
  argparse.ArgumentParser(description=__doc__).parse_args()
  with tempfile.TemporaryDirectory() as directory:
    runs = [
      of_seed(pathlib.Path(directory) / str(seed), seed) for seed in SEEDS
    ]
  results = {
    "machine": machine.describe(),
    "seeds": SEEDS,
    "relative_loss": {
      "masked autoencoder": [run["relative_loss"] for run in runs],
      CONSTANTS: [constants()] * len(runs),
    },
    "probed": {
      name: [run["probed"][name] for run in runs]
      for name in (PRETRAINED, RANDOM)
    },
    "tuned": {
      name: [run["tuned"][name] for run in runs] for name in (TUNED, SCRATCH)
    },
  }
  RESULTS.write_text(json.dumps(results, indent=2) + "\n")
  print("\n\n".join(tables(results)))


def of_seed(workdir, seed):
  """Relative loss, and top-1 by patch size of probes and of fine-tuning."""
  mae, random = workdir / "mae", workdir / "random"
  train(CONFIG, mae, seed)
  # One step at a learning rate of 0, at the size that compiles soonest.
  train(
    *(CONFIG, random, seed, "total_steps=1", "validation=None"),
    *("optimizer.learning_rate=0.0", "optimizer.schedule.warmup_steps=0"),
    "patch_size={'name':'sampled','choices':(12,)}",
  )
  rows = read_rows(mae / "metrics.jsonl")
  last = [row for row in rows if "validation/loss" in row][-1]
  found = {
    "relative_loss": {
      str(p): last[f"validation/relative_loss@{p}"] for p in SIZES
    },
    "probed": {PRETRAINED: probe(mae), RANDOM: probe(random)},
    "tuned": {},
  }
  begin = f"init_from={{'checkpoint':'{mae}','dont_load':('head/.*',)}}"
  for name, more in ((TUNED, (begin,)), (SCRATCH, ())):
    path = workdir / name.replace(" ", "_")
    labels = f"train.source.split={LABELLED}"
    train("configs/flexivit_digits.py", path, seed, labels, *SHORT, *more)
    found["tuned"][name] = evaluate(path)
  print(seed, found, flush=True)
  return found


def constants() -> dict[str, float]:
  """The relative loss, on validation images, of the mean target of the training
  images at each place."""
  experiment = build.load(str(ROOT / CONFIG))
  task = experiment.task

  def images(data):
    source = data.source.open()
    return jnp.asarray(np.stack([source.image(i) for i in range(len(source))]))

  train_images = images(experiment.train)
  shown = images(experiment.validation)
  found = {}
  for p in SIZES:
    answer = mae_target.of(patchify(train_images, (p, p)), task.target)
    answer = answer.values.mean(axis=0, keepdims=True)
    tokens = patchify(shown, (p, p))
    index = jnp.arange(len(shown))[:, None]
    hidden = task.hide(tokens, index, None).hidden
    target = mae_target.of(tokens, task.target)
    losses = (
      mae_target.by_image(target.error(x), tokens, only=hidden).sum()
      for x in (answer, target.centre)
    )
    found[str(p)] = float(next(losses) / next(losses))
  return found


def train(config, workdir, seed, *overrides) -> None:
  python(
    *("train.py", f"--config={config}", f"--workdir={workdir}"),
    *(f"--config.{x}" for x in (f"seed={seed}", *overrides)),
  )


def probe(workdir) -> dict[str, dict[str, float]]:
  """{shots: {patch size: top-1}}, the mean over draws of images."""
  python(
    *("-m", "flexivit_jax", "few-shot", f"--checkpoint={workdir}"),
    *(f"--patch_sizes={joined(SIZES)}", f"--shots={joined(SHOTS)}"),
    *("--penalty=1,4,16,64,256,1024", "--data=digits", "--resolutions=24"),
    *("--train_split=train[200:]", "--validation_split=train[:200]"),
    f"--output={workdir}/few_shot",
  )
  path = workdir / "few_shot" / "few_shot.json"
  points = json.loads(path.read_text())["points"]
  return {
    str(shots): {
      str(x["patch_hw"][0]): x["mean"] for x in points if x["shots"] == shots
    }
    for shots in SHOTS
  }


def evaluate(workdir) -> dict[str, float]:
  python(
    *("evaluate.py", f"--checkpoint={workdir}", "--no_timing"),
    *(f"--patch_sizes={joined(SIZES)}", f"--output={workdir}/eval"),
  )
  results = json.loads((workdir / "eval" / "results.json").read_text())
  return {str(p["patch_hw"][0]): p["top1"] for p in results["points"]}


def joined(numbers) -> str:
  return ",".join(map(str, numbers))


def tables(results):
  """Means over seeds as Markdown; the last column has its standard error."""
  losses = results["relative_loss"]
  yield table("relative loss", losses, 1, 2)
  probed = {
    f"{name}, {shots} shots": [x[str(shots)] for x in seeds]
    for shots in SHOTS
    for name, seeds in results["probed"].items()
  }
  yield table("probed, top-1, %", probed, 100, 1)
  yield table("200 labels, 400 steps, top-1, %", results["tuned"], 100, 1)


def table(what, found, scale, digits) -> str:
  rows = []
  for name, seeds in found.items():
    sizes = [scale * statistics.mean(x[str(p)] for x in seeds) for p in SIZES]
    means = [scale * statistics.mean(x.values()) for x in seeds]
    error = statistics.stdev(means) / math.sqrt(len(means))
    cells = [f"{x:.{digits}f}" for x in sizes]
    last = f"{statistics.mean(means):.{digits}f} +- {error:.{digits}f}"
    rows.append([name, *cells, last])
  return markdown.table([what, *(f"{p} px" for p in SIZES), "mean"], rows)


if __name__ == "__main__":
  main()
