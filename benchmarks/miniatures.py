"""What the papers say of tokenisation, in miniature: digits, three seeds.

  python -m benchmarks.miniatures
  python -m benchmarks.miniatures --only positions

Trains by train.py and evaluates by evaluate.py, as processes; about an hour on
two CPU cores. Writes benchmarks/results/miniatures.json, which --table prints.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import tempfile

from benchmarks import machine, markdown
from benchmarks.process import ROOT, python

RESULTS = ROOT / "benchmarks" / "results" / "miniatures.json"
SEEDS = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class Study:
  """One question.

  Attributes:
    config: what all arms start from, in configs/.
    arms: name to overrides.
    evaluate: arguments of evaluate.py.
  """

  config: str
  arms: dict[str, tuple[str, ...]]
  evaluate: tuple[str, ...] = ()


def _grid(patch, **position):
  """pit_digits at 8 px with larger patches."""
  fields = ",".join(f"{k!r}:{v!r}" for k, v in position.items())
  return (
    f"patch_size.size={patch}",
    f"model.kernel_hw=({patch},{patch})",
    f"model.position={{{fields}}}",
    "total_steps=800",
    "eval_every=400",
  )


def _positions(patch):
  side = 8 // patch
  size = (side, side)
  return {
    "none": _grid(patch, name="none"),
    "learned, 1-D": _grid(patch, name="learned_grid", size=size),
    "2-D, rows and columns stacked": _grid(
      patch, name="row_column", size=size, combine="stack"
    ),
    "relative": _grid(patch, name="relative", size=size),
    "sincos2d": _grid(patch, name="sincos2d"),
    "rotary": _grid(patch, name="rotary"),
  }


def _resolution(name, **fields):
  """For training and test data alike."""
  values = {"name": name, **fields}
  return tuple(
    f"{data}.resolution={values!r}".replace(" ", "")
    for data in ("train", "validation", "test")
  )


# Canvases up to four times as wide as high, 16 patches an image.
_LONG = (
  *(f"{data}.source.aspect=0.7" for data in ("train", "validation", "test")),
  "packing.max_images=20",
)
_PAD = tuple(
  f"{data}.transforms=('pad_square',)"
  for data in ("train", "validation", "test")
)
_SMALL = (
  'train.resolution={"name":"sampled","low":12,"high":24}',
  "patch_size.size=3",
  "model.kernel_hw=(3,3)",
  'packing.drop="none"',
)

STUDIES = {
  "positions": Study("pit_digits", _positions(2)),
  "pixels": Study(
    "pit_digits",
    {
      name: overrides
      for name, overrides in _positions(1).items()
      if name in ("none", "learned, 1-D", "sincos2d")
    },
  ),
  "resolution": Study(
    "navit_digits",
    {
      "12 to 32 px": (),
      "24 px": ("train.resolution.low=24", "train.resolution.high=24"),
    },
    ("--budgets=9,20,36,64",),
  ),
  "aspect": Study(
    "navit_digits",
    {
      "kept": (*_LONG, *_resolution("pix2struct", max_patches=16)),
      "stretched": (*_LONG, *_resolution("square", side=16)),
      "padded": (*_LONG, *_PAD, *_resolution("square", side=16)),
    },
  ),
  "beyond": Study(
    "navit_digits",
    {
      "joint table": (
        *_SMALL,
        'model.position={"name":"joint_table","size":(24,24)}',
      ),
      "factorised": _SMALL,
      "factorised, fractional": (*_SMALL, "model.position.read=fractional"),
      "learned 8x8, interpolated": (
        *_SMALL,
        'model.position={"name":"learned_grid","size":(8,8)}',
      ),
    },
    ("--budgets=36,64,100,144",),
  ),
}


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--only", choices=STUDIES)
  parser.add_argument("--table", action="store_true")
  args = parser.parse_args()
  if not args.table:
    for name in [args.only] if args.only else STUDIES:
      study = STUDIES[name]
      runs = {
        arm: [run(study, overrides, seed) for seed in SEEDS]
        for arm, overrides in study.arms.items()
      }
      # Read again: another study may have ended meanwhile.
      results = stored() | {name: {"machine": machine.describe(), "runs": runs}}
      results = {name: results[name] for name in STUDIES if name in results}
      RESULTS.write_text(json.dumps(results, indent=2) + "\n")
  for name, found in stored().items():
    print(f"\n{name}\n{table(found['runs'])}")


def stored():
  return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def run(study, overrides, seed):
  """Trains and evaluates one seed of one arm; top-1 by point."""
  with tempfile.TemporaryDirectory() as directory:
    workdir = pathlib.Path(directory) / "run"
    python(
      "train.py",
      f"--config=configs/{study.config}.py",
      f"--workdir={workdir}",
      f"--config.seed={seed}",
      *(f"--config.{o}" for o in overrides),
    )
    python(
      "evaluate.py",
      f"--checkpoint={workdir}",
      f"--output={workdir}/eval",
      *study.evaluate,
    )
    points = json.loads((workdir / "eval" / "results.json").read_text())
  top1 = {name(p): p["top1"] for p in points["points"]}
  print(study.config, overrides, seed, top1, flush=True)
  return {"seed": seed, "overrides": overrides, "top1": top1}


def name(point):
  h, _ = point["patch_hw"]
  budget = point["budget"]
  return f"{h} px" + ("" if budget is None else f", {budget} patches")


def table(runs) -> str:
  """Means over seeds and, in brackets, their range, in percent.

  Arms have as many points, which may be called otherwise: squares of 16 patches
  have no budget.
  """
  points = list(next(iter(runs.values()))[0]["top1"])
  rows = []
  for arm, seeds in runs.items():
    row = [arm]
    for own in zip(*(r["top1"].values() for r in seeds), strict=True):
      values = [100 * x for x in own]
      spread = f"{min(values):.1f} to {max(values):.1f}"
      row.append(f"{statistics.mean(values):.1f} ({spread})")
    rows.append(row)
  return markdown.table(["", *points], rows)


if __name__ == "__main__":
  main()
