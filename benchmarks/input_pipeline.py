"""What the input pipeline delivers, against what a model consumes.

  python -m benchmarks.input_pipeline --photographs DIR

DIR holds photographs as DIR/train/CLASS/*.jpg. First each part by itself, on
one core: reading, decoding, resizing, and every augmentation, in CPU time,
which a busy machine changes little; and from it the cores that a recipe takes.
Then whole loaders, of files and of prepared records, in this process, in
threads and in worker processes, in turn with training steps of a ViT-S/16,
which is what consumes them. Writes benchmarks/results/input_pipeline.json;
about 5 minutes on two cores.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np

from benchmarks import machine, markdown
from flexivit_jax.config import build
from flexivit_jax.data.loading.loader import TrainLoader
from flexivit_jax.data.pixels import (
  colour,
  preprocessing,
  rand_augment,
  transforms,
)
from flexivit_jax.data.prepare import tfds_writer
from flexivit_jax.data.sources import image_folder
from flexivit_jax.data.sources.tfds import Tfds
from flexivit_jax.devices import placement
from flexivit_jax.run.open import prepare

RESULTS = pathlib.Path(__file__).parent / "results" / "input_pipeline.json"

IMAGES = 100  # of each part, in a round
BATCH, TRAIN_BATCH = 16, 16
# Batches of a loader in a round: some to fill its buffers, then those timed.
FIRST, TIMED = 6, 16

ANTIALIAS, COMPAT = preprocessing.ANTIALIAS, preprocessing.BvCompat()
# Of the plain ViT recipe, and of FlexiViT's.
VIT = (
  transforms.InceptionCrop((224, 224)),
  transforms.Flip(),
  rand_augment.RandAugment(2, 10),
)
FLEXIVIT = (transforms.InceptionCrop((240, 240)), transforms.Flip())


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--photographs", required=True, help="DIR")
  parser.add_argument("--rounds", type=int, default=5)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as directory:
    folder = image_folder.ImageFolder(args.photographs, "train")
    records = written(folder.open(), pathlib.Path(directory))
    parts = time_parts(folder, records, args.rounds)
    print(parts_table(parts))
    recipes = cores(parts)
    print(f"\n{recipes_table(recipes)}\n")
    loaders, consumed = time_loaders(folder, records, args.rounds)
    print(loaders_table(loaders, consumed))
  results = {
    "machine": machine.describe(),
    "rounds": args.rounds,
    "photographs": len(folder.open()),
    "parts_cpu_ms": parts,
    "recipes_cpu_ms": recipes,
    "loaders": loaders,
    "vit_s16_train_images_per_s": consumed,
  }
  RESULTS.write_text(json.dumps(results, indent=2) + "\n")


def written(files, directory) -> Tfds:
  """The same images, prepared as records."""
  (home := directory / "photographs" / "1.0.0").mkdir(parents=True)
  examples = (
    tfds_writer.Example(
      "train",
      files.label(i),
      files.paths[i],
      pathlib.Path(files.name(i)).read_bytes(),
    )
    for i in range(len(files))
  )
  tfds_writer.write(home, "photographs", "1.0.0", files.classes, examples)
  return Tfds("photographs", "train", str(directory))


def time_parts(folder, records, rounds) -> dict[str, float]:
  """Median CPU milliseconds for an image, in turn."""
  files, record_source = folder.open(), records.open()
  count = min(IMAGES, len(files))
  paths = [pathlib.Path(files.name(i)) for i in range(count)]
  encoded = [path.read_bytes() for path in paths]
  decoded = [ANTIALIAS.decode(x, "") for x in encoded]
  sized = [ANTIALIAS.resize(x, (224, 224)) for x in decoded]

  def of_each(call, images):
    draws = np.random.default_rng(0)
    return lambda: [call(x, draws) for x in images]

  def resized(transform, mode):
    return of_each(lambda x, draws: transform(x, draws, mode), decoded)

  calls: dict[str, Callable] = {
    "read a file": of_each(lambda path, _: path.read_bytes(), paths),
    # Records in another order than they lie in.
    "read a record": of_each(
      lambda i, _: record_source.label(i),
      np.random.default_rng(1).permutation(count).tolist(),
    ),
  }
  for name, mode in (("antialias", ANTIALIAS), ("bv_compat", COMPAT)):
    calls |= {
      f"decode, {name}": of_each(lambda x, _, m=mode: m.decode(x, ""), encoded),
      f"inception_crop 224, {name}": resized(
        transforms.InceptionCrop((224, 224)), mode
      ),
      f"resize 240, {name}": resized(transforms.Resize((240, 240)), mode),
      f"resize_crop 256, 224, {name}": resized(
        transforms.ResizeCrop(256, (224, 224)), mode
      ),
    }
  for transform in (
    transforms.Flip(),
    rand_augment.RandAugment(2, 10),
    colour.ColorJitter(),
    colour.Grayscale(1.0),
    transforms.Affine(),
  ):
    name = build.name_of(transform)
    calls[f"{name}, 224 px"] = of_each(transform, sized)
  spent = {name: [] for name in calls}
  for _ in range(rounds + 1):
    for name, call in calls.items():
      start = time.process_time()
      call()
      spent[name].append((time.process_time() - start) / count)
  # The first round warms up.
  return {name: 1e3 * statistics.median(x[1:]) for name, x in spent.items()}


def parts_table(parts) -> str:
  rows = [
    (name, f"{ms:.2f}", f"{1e3 / ms:,.0f}" if ms > 0.005 else "-")
    for name, ms in parts.items()
  ]
  return markdown.table(("part", "CPU ms per image", "images/s and core"), rows)


def cores(parts) -> dict[str, float]:
  """CPU milliseconds for an image, by recipe."""
  common = ("read a record", "flip, 224 px")
  recipes = {}
  for mode in ("antialias", "bv_compat"):
    crop = (*common, f"decode, {mode}", f"inception_crop 224, {mode}")
    for recipe, names in (
      ("crop and flip", crop),
      ("and RandAugment(2, 10)", (*crop, "rand_augment, 224 px")),
      (
        "and colour jitter and grayscale",
        (*crop, "color_jitter, 224 px", "grayscale, 224 px"),
      ),
      (
        "evaluation, resize 240",
        ("read a record", f"decode, {mode}", f"resize 240, {mode}"),
      ),
    ):
      recipes[f"{recipe}, {mode}"] = sum(parts[name] for name in names)
  return recipes


def recipes_table(recipes) -> str:
  """A core spends 1,000 ms each second."""
  rows = [(name, f"{ms:.2f}", f"{ms:.1f}") for name, ms in recipes.items()]
  head = ("recipe", "CPU ms per image", "cores for 1,000 images/s")
  return markdown.table(head, rows)


@dataclasses.dataclass(frozen=True)
class Kind:
  """One way to load.

  Attributes:
    records: of prepared records, not of files.
  """

  recipe: str
  records: bool
  mode: preprocessing.Mode = ANTIALIAS
  workers: int = 0
  threads: int = 0

  @property
  def name(self) -> str:
    how = []
    if self.workers:
      how.append(f"{self.workers} workers")
    if self.threads:
      how.append(f"{self.threads} threads")
    return ", ".join(how) or "in this process"


KINDS = tuple(
  Kind(recipe, records, mode, workers, threads)
  for recipe, records, mode in (
    ("ViT 224 px", False, ANTIALIAS),
    ("ViT 224 px", True, ANTIALIAS),
    ("FlexiViT 240 px", False, ANTIALIAS),
    ("FlexiViT 240 px", True, ANTIALIAS),
    ("FlexiViT 240 px", True, COMPAT),
  )
  for workers, threads in ((0, 0), (0, 2), (2, 0))
)


def time_loaders(folder, records, rounds) -> tuple[list[dict], float]:
  """Images per second of each kind, and of training steps, in turn."""
  step = training_step(folder)
  rates, consumed = {kind: [] for kind in KINDS}, []
  for i in range(rounds):
    for kind in KINDS:
      spec = records if kind.records else folder
      rates[kind].append(loading_rate(kind, spec, seed=i))
    start = time.perf_counter()
    step()
    consumed.append(TRAIN_BATCH / (time.perf_counter() - start))
    print(f"round {i + 1} of {rounds}", flush=True)
  rows = [
    {
      "recipe": kind.recipe,
      "source": "records" if kind.records else "files",
      "mode": build.name_of(kind.mode),
      "workers": kind.workers,
      "threads": kind.threads,
      "how": kind.name,
      "images_per_s": statistics.median(rates[kind]),
    }
    for kind in KINDS
  ]
  return rows, statistics.median(consumed)


def loading_rate(kind: Kind, spec, seed: int) -> float:
  loader = TrainLoader(
    preprocessing.open_source(spec, kind.mode),
    VIT if kind.recipe.startswith("ViT") else FLEXIVIT,
    batch_size=BATCH,
    seed=seed,
    workers=kind.workers,
    threads=kind.threads,
  )
  for _ in range(FIRST):
    next(loader)
  start = time.perf_counter()
  for _ in range(TIMED):
    next(loader)
  seconds = time.perf_counter() - start
  loader.close()
  return BATCH * TIMED / seconds


def training_step(folder) -> Callable[[], None]:
  """A step of ViT-S/16 at 224 px, on a batch that lies on the device."""
  experiment = build.from_plain(
    {
      "model": {
        "size": "S",
        "position": "sincos2d",
        "pool": "gap",
        "kernel_hw": (16, 16),
      },
      "patch_size": {"name": "fixed", "size": 16},
      "optimizer": {"name": "adamw", "learning_rate": 1e-3},
      "train": {
        "source": {"name": "image_folder", "path": folder.path},
        "transforms": ({"name": "resize", "size": (224, 224)},),
      },
      "batch_size": TRAIN_BATCH,
      "total_steps": 1000,
    }
  )
  run = prepare(experiment, print)
  zero, state = run.zero_metrics(), run.init_state()
  (compiled,) = run.compile_steps(state, zero, print).values()
  batch = placement.to_devices(next(run.loader), run.mesh)
  run.loader.close()

  def step():
    nonlocal state
    state, metrics = compiled(state, zero, batch)
    jax.block_until_ready(metrics)

  step()
  return step


def loaders_table(rows, consumed) -> str:
  lines = [
    (
      f"{r['recipe']}, {r['mode']}",
      r["source"],
      r["how"],
      f"{r['images_per_s']:.0f}",
      f"{r['images_per_s'] / consumed:.0f}",
    )
    for r in rows
  ]
  head = ("recipe", "from", "loaded", "images/s", "times a ViT-S/16's step")
  return (
    markdown.table(head, lines)
    + f"\n\na training step of ViT-S/16 at 224 px: {consumed:.1f} images/s"
  )


if __name__ == "__main__":
  main()
