"""Where a step of the main job goes: data, computing, and waiting.

  python -m benchmarks.step_time

For each patch size: the loader alone, the compiled step alone on a batch that
is already there, and both as train.py runs them. Waiting is the time that the
loop spends on a batch while no step is under way. On a CPU loading also takes
cores from computing: that shows in what the loop takes beyond computing alone.
Writes benchmarks/results/step_time.json.
"""

import argparse
import collections
import functools
import json
import pathlib
import statistics
import time

import jax

from benchmarks import machine, markdown
from flexivit_jax.config import build
from flexivit_jax.devices import placement
from flexivit_jax.run.open import prepare

RESULTS = pathlib.Path(__file__).parent / "results" / "step_time.json"


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--config", default="configs/flexivit_digits.py")
  parser.add_argument("--steps", type=int, default=100)
  parser.add_argument("--rounds", type=int, default=5)
  args = parser.parse_args()
  run = prepare(build.load(args.config), print)
  rows = measure(run, args.steps, args.rounds)
  run.loader.close()
  results = {"machine": machine.describe(), "config": args.config, "rows": rows}
  RESULTS.write_text(json.dumps(results, indent=2) + "\n")
  print(table(rows))


def measure(run, steps, rounds):
  """Median milliseconds per step of each part, for each patch size."""
  zero, state = run.zero_metrics(), run.init_state()
  compiled = run.compile_steps(state, zero, print)
  batch = placement.to_devices(next(run.loader), run.mesh)
  rows = []
  for size, step in compiled.items():
    seconds = {"data": [], "computing": [], "loop": [], "waiting": []}
    for _ in range(rounds):
      start = time.perf_counter()
      for _ in range(steps):
        next(run.loader)
      seconds["data"].append(time.perf_counter() - start)

      loop = functools.partial(run_steps, step, steps)
      state, elapsed, _ = loop(state, zero, lambda: batch)
      seconds["computing"].append(elapsed)
      state, elapsed, waiting = loop(
        state, zero, lambda: placement.to_devices(next(run.loader), run.mesh)
      )
      seconds["loop"].append(elapsed)
      seconds["waiting"].append(waiting)
    ms = {k: 1e3 * statistics.median(v) / steps for k, v in seconds.items()}
    rows.append({"patch_hw": size, **ms})
  mean = {k: statistics.fmean(row[k] for row in rows) for k in seconds}
  return [*rows, {"patch_hw": None, **mean}]


def run_steps(step, steps, state, metrics, next_batch):
  """Steps as in train.py; returns state, seconds, and seconds of waiting."""
  start = time.perf_counter()
  in_flight, waiting = collections.deque(), 0.0
  for _ in range(steps):
    asked = time.perf_counter()
    batch = next_batch()
    if not in_flight or in_flight[-1]["loss"].count.is_ready():
      waiting += time.perf_counter() - asked
    state, new = step(state, metrics, batch)
    in_flight.append(new)
    if len(in_flight) > 2:
      jax.block_until_ready(in_flight.popleft())
  jax.block_until_ready(new)
  return state, time.perf_counter() - start, waiting


def table(rows) -> str:
  head = (
    "patch",
    "data alone, ms",
    "computing alone, ms",
    "loop, ms",
    "waiting for data",
    "loop beyond computing",
  )
  lines = [
    (
      f"{r['patch_hw'][0]} px" if r["patch_hw"] else "all",
      *(f"{r[k]:.1f}" for k in ("data", "computing", "loop")),
      f"{100 * r['waiting'] / r['loop']:.1f} %",
      f"{100 * (r['loop'] - r['computing']) / r['loop']:.0f} %",
    )
    for r in rows
  ]
  return markdown.table(head, lines)


if __name__ == "__main__":
  main()
