"""Where a step of the main job goes: data, computing, and waiting.

  python -m benchmarks.step_time

For each patch size: the loader alone, the compiled step alone on a batch that
is already there, and both as train.py runs them, one step in flight. Waiting
is what the loop takes beyond computing. Writes
benchmarks/results/step_time.json.
"""

import argparse
import functools
import json
import pathlib
import statistics
import tempfile
import time

import jax

import train
from benchmarks import machine, markdown
from flexivit_jax import config
from flexivit_jax.training import sharding

RESULTS = pathlib.Path(__file__).parent / "results" / "step_time.json"


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--config", default="configs/flexivit_digits.py")
  parser.add_argument("--steps", type=int, default=100)
  parser.add_argument("--rounds", type=int, default=5)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as directory:
    run = train.prepare(config.load(args.config), pathlib.Path(directory))
    rows = measure(run, args.steps, args.rounds)
    run.checkpoints.close()
    run.loader.close()
  results = {"machine": machine.describe(), "config": args.config, "rows": rows}
  RESULTS.write_text(json.dumps(results, indent=2) + "\n")
  print(table(rows))


def measure(run, steps, rounds):
  """Median milliseconds per step of each part, for each patch size."""
  zero = train.zero_metrics(run)
  state, metrics = train.start(run, zero)
  compiled, _ = train.compile_sizes(run, state, metrics, print)
  batch = sharding.to_devices(next(run.loader), run.mesh)
  rows = []
  for size, step in compiled.items():
    seconds = {"data": [], "computing": [], "loop": []}
    for _ in range(rounds):
      start = time.perf_counter()
      for _ in range(steps):
        next(run.loader)
      seconds["data"].append(time.perf_counter() - start)

      loop = functools.partial(run_steps, step, steps)
      state, elapsed = loop(state, zero, lambda: batch)
      seconds["computing"].append(elapsed)
      state, elapsed = loop(
        state, zero, lambda: sharding.to_devices(next(run.loader), run.mesh)
      )
      seconds["loop"].append(elapsed)
    ms = {k: 1e3 * statistics.median(v) / steps for k, v in seconds.items()}
    rows.append({"patch_hw": size, **ms})
  return rows


def run_steps(step, steps, state, metrics, next_batch):
  """Steps with one in flight, as in train.py; returns state and seconds."""
  start = time.perf_counter()
  previous = metrics
  for _ in range(steps):
    state, new = step(state, metrics, next_batch())
    jax.block_until_ready(previous)
    previous = new
  jax.block_until_ready(previous)
  return state, time.perf_counter() - start


def table(rows) -> str:
  head = (
    "patch",
    "data alone, ms",
    "computing alone, ms",
    "loop, ms",
    "waiting",
  )
  lines = [
    (
      f"{r['patch_hw'][0]} px",
      *(f"{r[k]:.1f}" for k in ("data", "computing", "loop")),
      f"{100 * (r['loop'] - r['computing']) / r['loop']:.0f} %",
    )
    for r in rows
  ]
  return markdown.table(head, lines)


if __name__ == "__main__":
  main()
