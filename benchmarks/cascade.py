"""Cascades over patch sizes against the smallest patches, on the digits.

  python -m benchmarks.cascade

Trains configs/flexivit_digits.py with three seeds by train.py, about two
minutes each on two idle cores. On the 200 validation images of each it chooses

- the cascade of the least CPU time that is as accurate there as the smallest
  patches, and
- the most accurate one of at most 60 % of their CPU time,

and runs them on the 500 test images, in turn with the single sizes and with
cascades from 12 to 4 px whose thresholds send a tenth, a quarter and half of
the validation images on: these show what moving images together costs. CPU
time, all cores together, holds on a busy machine, where seconds that pass are
much longer for many small programs than for a few large ones; both are shown.
Writes benchmarks/results/cascade.json. `--workdir DIR` keeps the runs, and goes
on with those that are there.
"""

import argparse
import functools
import json
import math
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np

from benchmarks import ensembles, machine, markdown
from benchmarks.process import ROOT, python
from flexivit_jax.checkpoints import load as load_lib
from flexivit_jax.core.cut import to_tokens
from flexivit_jax.core.sizes import size_name
from flexivit_jax.data.loading.eval_loader import EvalLoader
from flexivit_jax.devices import compilation, placement
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.evaluation.cascade import cascade, thresholds
from flexivit_jax.evaluation.cascade import measure as measure_lib
from flexivit_jax.evaluation.cascade import run as run_lib
from flexivit_jax.evaluation.cascade.cascade import Cascade
from flexivit_jax.evaluation.reading import OneView
from flexivit_jax.models import cost
from flexivit_jax.tasks import losses, predictions

RESULTS = ROOT / "benchmarks" / "results" / "cascade.json"
SEEDS = (0, 1, 2)
SIZES = ((12, 12), (8, 8), (6, 6), (4, 4))
SMALLEST = SIZES[-1]
RATIOS = {
  "time_ratio": "time",
  "cpu_ratio": "CPU time",
  "predicted_cpu_ratio": "CPU time predicted",
  "multiply_adds_ratio": "multiply-adds",
}
# Of the CPU time of the smallest patches.
BUDGET = 0.6
AS_ACCURATE = "as accurate on validation"
IN_BUDGET = f"best in {BUDGET:.0%} of the CPU time"


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", type=pathlib.Path)
  parser.add_argument("--rounds", type=int, default=25)
  parser.add_argument("--batch_size", type=int, default=128)
  args = parser.parse_args()
  compilation.enable_persistent_cache()  # of the same programs for all seeds
  with tempfile.TemporaryDirectory() as directory:
    workdir = args.workdir or pathlib.Path(directory)
    workdirs = [train(workdir / str(seed), seed) for seed in SEEDS]
    runs = [measure(path, args.batch_size, args.rounds) for path in workdirs]
  results = {
    "machine": machine.describe(),
    "batch_size": args.batch_size,
    "rounds": args.rounds,
    "runs": runs,
    "mean": {
      how: averaged([run["chosen"][how] for run in runs])
      for how in (AS_ACCURATE, IN_BUDGET)
    },
  }
  RESULTS.write_text(json.dumps(results, indent=2) + "\n")
  print(table(runs))


def train(workdir, seed):
  python(
    *("train.py", "--config=configs/flexivit_digits.py"),
    *(f"--workdir={workdir}", f"--config.seed={seed}"),
  )
  return workdir


def measure(workdir, batch_size, rounds) -> dict:
  """One seed: cascades chosen on its validation data, run on its test data."""
  loaded = load_lib.load(workdir)
  experiment, mesh = loaded.spec.experiment, mesh_lib.make_mesh()
  params = jax.device_put(loaded.params, placement.replicated(mesh))
  batch_size = mesh_lib.round_up(batch_size, mesh)

  def load(data):
    return EvalLoader(data.source.open(), [data.transforms], batch_size)

  def logits(params, batch, *, patch_hw):
    tokens = to_tokens(batch.inputs, patch_hw)
    return loaded.model.apply({"params": params}, tokens).logits

  def forward(params, batch, *, patch_hw):
    out = logits(params, batch, patch_hw=patch_hw)
    loss = experiment.task.loss(
      out, losses.of_labels(batch.labels, out.shape[-1])
    )
    probabilities = jax.nn.softmax(out)
    return predictions.answer(
      out, probabilities, loss, batch.labels, batch.index
    )

  validation = OneView(load(experiment.validation))
  images = load(experiment.test)
  test = OneView(images)
  # The programs of all cascades over these sizes: thresholds are no part.
  singles = [Cascade((size,)) for size in SIZES]
  programs = run_lib.compile_cascades(
    forward,
    [*singles, Cascade(SIZES, (0.5,) * (len(SIZES) - 1))],
    params,
    test.example(),
    mesh=mesh,
    report=functools.partial(print, flush=True),
  )
  run = functools.partial(
    measure_lib.measure, programs, params=params, rounds=rounds
  )
  cpu_time = functools.partial(run, clock=time.process_time)
  before = dict(zip(SIZES, cpu_time(singles, batches=validation)))
  seen = {size: x.outcome.answers for size, x in before.items()}
  seconds = {size: x.seconds for size, x in before.items()}
  front = thresholds.front(SIZES, seen, seconds)
  chosen = {
    AS_ACCURATE: thresholds.for_accuracy(front, seen[SMALLEST].top(1)),
    # A front rises in cost and accuracy.
    IN_BUDGET: [c for c in front if c.cost <= BUDGET * seconds[SMALLEST]][-1],
  }
  pair = (SIZES[0], SMALLEST)
  forced = [
    Cascade(pair, (float(np.quantile(seen[pair[0]].confidence, share)),))
    for share in (0.1, 0.25, 0.5)
  ]
  wanted = [*singles, *(x.cascade for x in (*front, *chosen.values())), *forced]
  wanted = list(dict.fromkeys(wanted))
  measured = dict(zip(wanted, run(wanted, batches=test)))
  cpu = dict(zip(wanted, cpu_time(wanted, batches=test)))
  multiply_adds = {
    size: cost.multiply_adds(loaded.model, images.image_hw(0), size)
    for size in SIZES
  }
  seconds = {size: cpu[Cascade((size,))].seconds for size in SIZES}
  whole = Cascade((SMALLEST,))
  smallest = measured[whole]

  def described(one):
    """Predicted is what its sizes cost by their own CPU times."""
    outcome = measured[one].outcome
    return {
      "cascade": str(one),
      "top1": outcome.answers.top(1),
      "difference": cascade.paired_difference(
        outcome.answers, smallest.outcome.answers
      ),
      "reached": outcome.reached,
      "rows": measured[one].rows,
      "us_per_image": 1e6 * measured[one].seconds,
      "cpu_us_per_image": 1e6 * cpu[one].seconds,
      "time_ratio": measured[one].seconds / smallest.seconds,
      "cpu_ratio": cpu[one].seconds / cpu[whole].seconds,
      "predicted_cpu_ratio": outcome.cost(seconds) / seconds[SMALLEST],
      "multiply_adds_ratio": (
        outcome.cost(multiply_adds) / multiply_adds[SMALLEST]
      ),
    }

  return {
    "seed": experiment.seed,
    "chosen": {
      how: {"validation_top1": x.top1, **described(x.cascade)}
      for how, x in chosen.items()
    },
    "singles": [described(x) for x in singles],
    "front": [
      {"validation_top1": x.top1, **described(x.cascade)} for x in front
    ],
    "forced": [described(x) for x in forced],
    "ensembles": {
      how: ensemble(logits, params, test, mesh, seconds, of_logs)
      for how, of_logs in (("probabilities", False), ("their logs", True))
    },
  }


def ensemble(logits, params, test, mesh, seconds, of_logs) -> list[dict]:
  """Of the first size, the first two, ...; its time is theirs added up."""
  program = jax.jit(ensembles.ensembles(logits, SIZES, of_logs=of_logs))
  parts = [
    jax.device_get(program(params, placement.to_devices(batch, mesh)))
    for batch in test
  ]
  rows = []
  for count, own in enumerate(zip(*parts), start=1):
    first = SIZES[:count]
    rows.append(
      {
        "sizes": [size_name(size) for size in first],
        "top1": predictions.gather(list(own)).top(1),
        "predicted_cpu_ratio": (
          sum(seconds[size] for size in first) / seconds[SMALLEST]
        ),
      }
    )
  return rows


def averaged(rows) -> dict:
  """Means over the seeds.

  Their standard error is that of these 500 images and three runs, taken as
  independent; the images are the same for all three.
  """
  differences, errors = zip(*(row["difference"] for row in rows))
  error = math.hypot(*errors) / len(errors)
  return {
    "difference": (statistics.mean(differences), error),
    **{
      name: statistics.mean(row[name] for row in rows)
      for name in ("top1", *RATIOS)
    },
  }


def table(runs) -> str:
  """One line for each seed's choice, means over seeds for the others."""
  head = ("in % of 4 px", "top-1 %", "less 4 px, %", *RATIOS.values())
  rows = []
  for how in (AS_ACCURATE, IN_BUDGET):
    own = [run["chosen"][how] for run in runs]
    for run, row in zip(runs, own, strict=True):
      rows.append((f"seed {run['seed']}: {row['cascade']}", *cells(row)))
    rows.append((f"{how}, mean", *cells(averaged(own))))
  for i, size in enumerate(SIZES):
    own = [run["singles"][i] for run in runs]
    rows.append((f"{size_name(size)} px", *cells(averaged(own))))
  for i in range(len(runs[0]["forced"])):
    own = [run["forced"][i] for run in runs]
    reached = [row["reached"] for row in own]
    share = 100 * sum(x[1] for x in reached) / sum(x[0] for x in reached)
    name = f"12 px, {share:.0f} % go on to 4 px"
    rows.append((name, *cells(averaged(own))))
  for how in runs[0]["ensembles"]:
    for i in range(1, len(SIZES)):
      own = [run["ensembles"][how][i] for run in runs]
      top1 = 100 * statistics.mean(x["top1"] for x in own)
      ratio = 100 * statistics.mean(x["predicted_cpu_ratio"] for x in own)
      name = f"{' + '.join(own[0]['sizes'])} px, mean of {how}"
      rows.append((name, f"{top1:.1f}", "", "", "", f"{ratio:.0f}", ""))
  return markdown.table(head, rows)


def cells(row):
  difference, error = (100 * x for x in row["difference"])
  yield f"{100 * row['top1']:.1f}"
  yield f"{difference:+.2f} +- {error:.2f}" if error else ""
  for name in RATIOS:
    yield f"{100 * row[name]:.0f}"


if __name__ == "__main__":
  main()
