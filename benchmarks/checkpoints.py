"""What a checkpoint of ViT-B costs a run, and what restoring it takes.

  python -m benchmarks.checkpoints

A save blocks the loop until the arrays may be donated; compression, writing and
checksums go on in threads, beside the next steps. Writes
benchmarks/results/checkpoints.json.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp

from benchmarks import machine, markdown
from flexivit_jax.checkpoints import manifest, run_directory, run_store
from flexivit_jax.core.tokens import patchify
from flexivit_jax.models import sizes, vit
from flexivit_jax.nn import pooling
from flexivit_jax.nn.positions import learned_grid

RESULTS = pathlib.Path(__file__).parent / "results" / "checkpoints.json"
STEPS, STEP_S = 100, 0.2  # the bar: a save blocks at most 2 % of these


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--directory", help="to write to; default: the system's")
  args = parser.parse_args()
  params = init_params()
  states = {
    "parameters": {"params": params},
    # AdamW's two moments; full of digits, as zeros would be compressed away.
    "parameters and AdamW": {
      "params": params,
      "mu": jax.tree.map(lambda x: 0.1 * x + 0.01, params),
      "nu": jax.tree.map(lambda x: x * x + 0.01, params),
    },
  }
  rows = []
  for name, state in states.items():
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
      rows.append({"what": name, **measure(state, directory, args.rounds)})
  results = {"machine": machine.describe(), "rows": rows}
  RESULTS.write_text(json.dumps(results, indent=2) + "\n")
  print(table(rows))


def init_params():
  model = vit.ViT(
    size=sizes.SIZES["B"],
    position=learned_grid.LearnedGrid((14, 14)),
    pool=pooling.Gap(),
    kernel_hw=(16, 16),
    num_classes=1000,
  )
  image = jnp.zeros((1, 32, 32, 3), jnp.uint8)
  init = jax.jit(
    lambda: model.init(jax.random.key(0), patchify(image, (16, 16)))
  )
  return jax.block_until_ready(init()["params"])


def measure(state, directory, rounds):
  """Median seconds of each part of saving and restoring a state."""
  arrays = {"state": state}
  seconds = {"blocking": [], "written": [], "hashing": [], "restoring": []}
  checkpoints = run_store.Checkpoints(directory, keep=2)
  for step in range(1, rounds + 1):
    start = time.perf_counter()
    checkpoints.save(step, arrays, {"loader": {"next_step": step}})
    seconds["blocking"].append(time.perf_counter() - start)
    checkpoints.wait()
    seconds["written"].append(time.perf_counter() - start)
    path = pathlib.Path(directory) / run_directory.DIRECTORY / str(step)
    start = time.perf_counter()
    if manifest.damage(path):
      raise RuntimeError("damaged at once")
    seconds["hashing"].append(time.perf_counter() - start)
    start = time.perf_counter()
    checkpoints.restore(arrays, print)
    seconds["restoring"].append(time.perf_counter() - start)
  checkpoints.close()
  size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
  shutil.rmtree(directory + "/checkpoints")
  return {
    "bytes": run_directory.num_bytes(state),
    "bytes_on_disk": size,
    **{f"{k}_s": statistics.median(v) for k, v in seconds.items()},
  }


def table(rows) -> str:
  head = (
    "saved",
    "MB",
    "blocks the loop, s",
    f"of {STEPS} steps of {STEP_S} s",
    "all written, s",
    "SHA-256 of it, s",
    "verify and restore, s",
  )
  lines = [
    (
      r["what"],
      f"{r['bytes'] / 1e6:.0f}",
      f"{r['blocking_s']:.3f}",
      f"{100 * r['blocking_s'] / (STEPS * STEP_S):.2f} %",
      f"{r['written_s']:.1f}",
      f"{r['hashing_s']:.2f}",
      f"{r['restoring_s']:.1f}",
    )
    for r in rows
  ]
  return markdown.table(head, lines)


if __name__ == "__main__":
  main()
