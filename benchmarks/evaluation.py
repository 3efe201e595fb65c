"""How much an evaluation costs beside the forward passes that it needs.

  python -m benchmarks.evaluation --photographs DIR

ViT-S on the photographs of DIR/train/CLASS, squashed to 240 px: images per
second of a whole evaluation (reading, decoding, resizing, answers) against the
compiled forward pass on batches that lie on the device, in turn, in one
process. Then a sweep of four patch sizes and three resolutions on digits, as a
user would run it: evaluate.py as a process, with nothing compiled before.
Writes benchmarks/results/evaluation.json; about ten minutes on two cores.
"""

import argparse
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine, markdown, timing
from flexivit_jax.data.loading import bad_images
from flexivit_jax.data.pixels import transforms
from flexivit_jax.data.sources import image_folder
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.devices import placement
from flexivit_jax.evaluation import open_reading, sweep
from flexivit_jax.models import sizes, vit
from flexivit_jax.nn import pooling
from flexivit_jax.nn.positions import learned_grid
from flexivit_jax.tasks.classification import Supervised

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "evaluation.json"
SIDE, BATCH, PATCHES = 240, 32, (16, 20, 24, 30)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--photographs", required=True)
  parser.add_argument("--rounds", type=int, default=5)
  args = parser.parse_args()
  photographs = list(on_photographs(args.photographs, args.rounds))
  print(photographs, flush=True)
  results = {
    "machine": machine.describe(),
    "rounds": args.rounds,
    "photographs": photographs,
    "digits_s": sweep_of_digits(),
  }
  RESULTS.write_text(json.dumps(results, indent=2) + "\n")
  rows = [
    (
      f"{r['patch']} px, {r['tokens']} tokens",
      f"{r['forward']:.1f}",
      f"{r['evaluation']:.1f}",
      f"{r['evaluation'] / r['forward']:.2f}",
    )
    for r in photographs
  ]
  head = ["ViT-S at 240 px", "forward, images/s", "evaluation", "ratio"]
  print(markdown.table(head, rows))
  print(f"digits, 4 patch sizes x 3 resolutions: {results['digits_s']:.0f} s")


def on_photographs(path, rounds):
  """Images per second of both, at each patch size."""
  source = image_folder.ImageFolder(path, "train").open()
  model = vit.ViT(
    size=sizes.SIZES["S"],
    position=learned_grid.LearnedGrid((7, 7)),
    pool=pooling.Gap(),
    num_classes=1000,
  )
  mesh, task = mesh_lib.make_mesh(), Supervised()
  inputs = np.zeros((1, SIDE, SIDE, 3), np.uint8)
  params = task.init(model, jax.random.key(0), inputs, (16, 16))
  params = jax.device_put(params, placement.replicated(mesh))
  reading = open_reading.of_one_size(
    source,
    [(transforms.Resize((SIDE, SIDE)),)],
    lambda _: [(p, p) for p in PATCHES],
    batch_size=BATCH,
    shard=(0, 1),
    on_bad_image=bad_images.ERROR,
  )
  forward = functools.partial(sweep.forward, task, model)
  programs = sweep.compile_programs(
    lambda _: (forward, params), [reading], mesh, print
  )
  on_device = functools.partial(placement.to_devices, mesh=mesh)
  batches = [on_device(batch) for _, batch in reading.loader]
  for setting, program in programs.items():
    call = functools.partial(program.call, params)
    alone = reading.only(lambda _, s, this=setting: s == this)

    def evaluation(call=call, alone=alone, setting=setting):
      sweep.sweep({setting: call}, [alone], on_device)
      return jnp.zeros(())

    def bare(call=call):
      return [call(batch) for batch in batches]

    seconds = timing.in_turn(
      {"forward": bare, "evaluation": evaluation}, rounds
    )
    yield {
      "patch": setting.patch_hw[0],
      "tokens": (SIDE // setting.patch_hw[0]) ** 2,
      **{name: len(source) / s for name, s in seconds.items()},
    }


def sweep_of_digits() -> float:
  """Seconds of evaluate.py, its start, compiling and report included."""
  with tempfile.TemporaryDirectory() as directory:
    environment = os.environ | {
      "JAX_COMPILATION_CACHE_DIR": f"{directory}/compiled"
    }
    run = functools.partial(
      subprocess.run, cwd=ROOT, env=environment, check=True
    )
    train = ("--config=configs/flexivit_digits.py", "--config.total_steps=200")
    run([sys.executable, "train.py", *train, f"--workdir={directory}/run"])
    start = time.perf_counter()
    run(
      [
        *(sys.executable, "evaluate.py", f"--checkpoint={directory}/run"),
        *("--patch_sizes=4,6,8,12", "--resolutions=24,48,72"),
        f"--output={directory}/out",
      ]
    )
    return time.perf_counter() - start


if __name__ == "__main__":
  main()
