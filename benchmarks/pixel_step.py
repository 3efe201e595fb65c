"""A training step on every pixel of a photograph, on eight simulated devices.

  python -m benchmarks.pixel_step

configs/pit_224.py with two layers in float32: 50,176 tokens of a photograph of
scikit-learn, shared by 8 devices. One step of the optimiser by each
distribution, with its time and the temporary memory of a device. The steps have
to agree: the norms of their gradients are compared. Simulated devices share the
cores of one machine, so the time is that of all the work on them. Writes
benchmarks/results/pixel_step.json.
"""

import argparse
import json
import pathlib
import tempfile
import time

import jax
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks import machine, markdown
from flexivit_jax.config import build
from flexivit_jax.devices import placement
from flexivit_jax.run import memory_report
from flexivit_jax.run.open import prepare

RESULTS = pathlib.Path(__file__).parent / "results" / "pixel_step.json"
DEVICES = 8
# Of norms, relative: summed in another order over 50,176 tokens in float32.
LARGEST_DIFFERENCE = 1e-4


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--side", type=int, default=224)
  parser.add_argument("--depth", type=int, default=2)
  parser.add_argument(
    "--distributions", nargs="+", default=["query_sharded", "ring"]
  )
  args = parser.parse_args()
  jax.config.update("jax_num_cpu_devices", DEVICES)
  with tempfile.TemporaryDirectory() as folder:
    write_photographs(pathlib.Path(folder))
    steps = [
      one_step(folder, args.side, args.depth, name)
      for name in args.distributions
    ]
  results = {
    "machine": machine.describe(),
    "tokens": args.side**2,
    "depth": args.depth,
    "devices": DEVICES,
    "steps": steps,
  }
  RESULTS.write_text(json.dumps(results, indent=2) + "\n")
  print(table(results))
  norms = [step["gradient_norm"] for step in steps]
  if not max(norms) - min(norms) <= LARGEST_DIFFERENCE * max(norms):
    raise SystemExit(f"gradients differ: their norms are {norms}")


def write_photographs(folder: pathlib.Path) -> None:
  """The two of scikit-learn, as two classes of two splits."""
  for label, pixels in enumerate(load_sample_images().images):
    for split in ("train", "validation"):
      path = folder / split / f"class{label}" / "photograph.png"
      path.parent.mkdir(parents=True)
      Image.fromarray(pixels).save(path)


def one_step(folder: str, side: int, depth: int, distribution: str) -> dict:
  """Compiles and takes a step."""
  size = dict(name="custom", width=192, depth=depth, mlp_dim=768, num_heads=3)
  overrides = (
    f"model.size={size}",
    f"model.distribution={distribution}",
    "model.dtype=float32",
    "model.drop_path=0.0",
    "train.source.split=train",
    f"train.transforms=({{'name':'resize','size':({side},{side})}},)",
    "validation=None",
    "test=None",
    "batch_size=1",
    "accumulate=1",
    "total_epochs=None",
    "total_steps=2",
    "optimizer.schedule.warmup_steps=0",
    "threads=0",
  )
  argument = f"{folder},Ti,{DEVICES},{side}"
  experiment = build.load(f"configs/pit_224.py:{argument}", overrides)
  run = prepare(experiment, print)
  state, metrics = run.init_state(), run.zero_metrics()
  start = time.perf_counter()
  (step,) = run.compile_steps(state, metrics, print).values()
  compiled = time.perf_counter() - start
  batch = placement.to_devices(next(run.loader), run.mesh)
  start = time.perf_counter()
  state, measured = jax.block_until_ready(step(state, metrics, batch))
  seconds = time.perf_counter() - start
  run.loader.close()
  if not state.finite.flag:
    raise SystemExit(f"the step of {distribution} is not finite")
  plan = step.compiled.memory_analysis()
  return {
    "distribution": distribution,
    "compile_s": compiled,
    "step_s": seconds,
    "temporary_mib": plan.temp_size_in_bytes / 2**20,
    "arguments_mib": plan.argument_size_in_bytes / 2**20,
    "estimate_mib": memory_report.estimate(run, (1, 1)).total / 2**20,
    "loss": float(measured["loss"]),
    "gradient_norm": float(measured["gradient_norm"]),
  }


def table(results) -> str:
  head = (
    *("distribution", "tokens", "compile s", "step s"),
    *("MiB temporary, of a device", "loss", "gradient norm"),
  )
  rows = [
    (
      step["distribution"],
      f"{results['tokens']:,}",
      f"{step['compile_s']:.0f}",
      f"{step['step_s']:.0f}",
      f"{step['temporary_mib']:.0f}",
      f"{step['loss']:.5f}",
      f"{step['gradient_norm']:.6f}",
    )
    for step in results["steps"]
  ]
  return markdown.table(head, rows)


if __name__ == "__main__":
  main()
