"""Evaluates one checkpoint at many patch sizes.

  python evaluate.py --checkpoint runs/flexivit --patch_sizes 4,6,8,12
  python evaluate.py --checkpoint vit.npz --data folder:PATH --image_size 240 \\
      --patch_sizes 8:48 --output DIR
  python evaluate.py --checkpoint vit.npz --data tfds:imagenet2012:5.1.0 \\
      --split validation --image_size 240 --patch_sizes 8:48
  python evaluate.py --checkpoint runs/navit --budgets 64,256

Prints a table; with --output also writes results.json and curve.png. A run's
own test data is the default; the images of --data folder:PATH are those of
PATH/test/CLASS, of tfds:NAME those prepared in --data_dir, squashed to
--image_size. With --budgets images keep their aspect ratio, have so many
patches at most, and are packed.
"""

import dataclasses
import functools
import json
import pathlib

import jax

from flexivit_jax import config, pretrained
from flexivit_jax.cli import arguments, errors, reading
from flexivit_jax.core.patch_size import parse_hw
from flexivit_jax.core.resolution import NaFlex
from flexivit_jax.data import augment, bad_images, packs, sources, tfds
from flexivit_jax.evaluation import report, sweep
from flexivit_jax.experiment import (
  ConfigError,
  Data,
  blaming,
  check_patch_size,
  common_divisors,
)
from flexivit_jax.nn.vit import MAX_SIDE
from flexivit_jax.run import eval_passes
from flexivit_jax.tasks.supervised import Supervised
from flexivit_jax.training import compilation, memory, provenance, sharding


def main(argv=None):
  parser = arguments.parser(__doc__)
  add = parser.add_argument
  add(
    "--checkpoint",
    required=True,
    help="a run, a file or directory of another program, or the name of a "
    "published model: docs/checkpoints.md",
  )
  add(
    "--patch_sizes",
    help="4,6,8x6 or 8:48, the sizes in that range that it was trained at or, "
    "where that is unknown, that tile the image; default: those trained at",
  )
  add(
    "--data",
    help="digits, folder:PATH, or tfds:NAME[:VERSION]; default: a run's test "
    "data",
  )
  add(
    "--data_dir",
    help="where tfds:NAME is prepared; default: $TFDS_DATA_DIR, or "
    "~/tensorflow_datasets",
  )
  add("--image_size", help="240 or 240x320; with --data only")
  add(
    "--budgets",
    help="64,256: most patches of an image, which is scaled to come near them "
    "and keeps its aspect ratio; instead of --image_size",
  )
  add(
    "--resize",
    help="272 or 272x360: squash to this size first, and take the centre of "
    "--image_size, as FlexiViT's paper does",
  )
  add("--split", help="of --data; default: test")
  add("--batch_size", type=int, help="default: the run's, or 128")
  add("--step", type=int, help="of a run: which checkpoint; default: the best")
  add(
    "--on_bad_image",
    choices=tuple(config.CHOICES[bad_images.OnBadImage]),
    help="whether an image that cannot be decoded ends the evaluation, or is "
    "left out; default: the run's, or error",
  )
  add("--output", help="directory for results.json and curve.png")
  reading.add_facts(parser)
  args, _ = arguments.parse(parser, argv)
  evaluate(args)


def evaluate(args) -> list[sweep.Point]:
  if args.output:
    output = pathlib.Path(args.output)
    if output.exists() and not output.is_dir():
      raise ConfigError(f"--output {output} is a file: give a directory")
    output.mkdir(parents=True, exist_ok=True)
  given = reading.facts(args)
  with blaming("--checkpoint"):
    vit = pretrained.load(args.checkpoint, step=args.step, **given)
  print(vit, flush=True)
  run = vit.spec.experiment
  data = choose_data(args, run)
  batch_size = args.batch_size
  if batch_size is None:
    batch_size = run.eval_batch_size if run else 128
  if batch_size < 1:
    raise ConfigError(f"--batch_size {batch_size}: give at least 1")
  mesh = sharding.make_mesh()
  batch_size = sharding.round_up(batch_size, mesh)
  with blaming("--data" if args.data else "config.test"):
    source = data.source.open()
    check_classes(vit, source)
    policy = run.on_bad_image if run else bad_images.ERROR
    if args.on_bad_image:
      policy = config.CHOICES[bad_images.OnBadImage][args.on_bad_image]()
    passes = choose_passes(args, vit, data, source, batch_size, policy)

  compilation.enable_persistent_cache()
  task = run.task if run else Supervised()
  params = jax.device_put(vit.params, sharding.replicated(mesh))
  setting = "--batch_size"
  if args.budgets:
    setting += ", or the largest of --budgets"
  with memory.explaining_evaluation(batch_size, setting):
    measures = sweep.compile_measures(
      functools.partial(task.measure, vit.model),
      passes,
      params,
      mesh,
      functools.partial(print, flush=True),
    )
    on_devices = functools.partial(sharding.to_devices, mesh=mesh)
    points = sweep.sweep(measures, params, passes, on_devices)
  for reason in sweep.bad_images(passes).values():
    print(f"skipped: {reason}")
  for each in passes:
    if count := getattr(each.loader, "scaled_down", 0):
      print(
        f"at budget {each.budget} and {sweep.size_name(each.sizes[0])} px, "
        f"{count} images have more patches than the model has positions for: "
        "scaled down"
      )
  print(f"\n{points[0].images} images of {data.source}")
  print(report.table(points))
  if args.output:
    write(pathlib.Path(args.output), vit, data, points)
  return points


def choose_data(args, run) -> Data:
  """What --data asks for, or a run's own test data."""
  if args.data is None:
    if run is None or run.test is None:
      raise ConfigError(
        f"{args.checkpoint} names no data: give --data digits, "
        "folder:PATH or tfds:NAME"
      )
    if args.image_size or args.resize or args.split or args.data_dir:
      raise ConfigError(
        "--image_size, --resize, --split and --data_dir need --data: a run's "
        "test data has its own"
      )
    return run.test
  size, transforms = None, ()
  if args.budgets and args.image_size:
    raise ConfigError(
      "--budgets and --image_size: give one of them, the size of an image "
      "follows from its budget"
    )
  if args.resize and not args.image_size:
    raise ConfigError("--resize needs --image_size, the size of the centre")
  if args.image_size:
    with blaming("--image_size"):
      size = parse_hw(args.image_size)
      transforms = choose_transforms(size, args.resize)
  split = args.split or "test"
  kind, _, path = args.data.partition(":")
  if args.data_dir and kind != "tfds":
    raise ConfigError("--data_dir is for --data tfds:NAME only")
  if kind == "digits" and not path:
    if size is None:
      return Data(sources.Digits(split))
    with blaming("--image_size"):
      # Drawn as large as they are wanted, not enlarged twice.
      side = max(transforms[0].size)
      return Data(sources.Digits(split, side), transforms)
  if kind in ("folder", "tfds") and path:
    if size is None and not args.budgets:
      form = {"folder": "PATH", "tfds": "NAME"}[kind]
      raise ConfigError(
        f"--data {kind}:{form} needs --image_size, 240 say, or --budgets"
      )
    if kind == "folder":
      return Data(sources.ImageFolder(path, split), transforms)
    return Data(tfds.Tfds(path, split, args.data_dir), transforms)
  raise ConfigError(
    f"--data {args.data!r}: give digits, folder:PATH or tfds:NAME"
  )


def choose_transforms(size, resize):
  """Squashed to --image_size, or to --resize of which the centre is taken."""
  if resize is None:
    return (augment.Resize(size),)
  with blaming("--resize"):
    return augment.Resize(parse_hw(resize)), augment.CentralCrop(size)


def choose_passes(args, vit, data, source, batch_size, policy):
  """What --patch_sizes and --budgets ask for, as passes over the data."""
  run = vit.spec.experiment
  make = functools.partial(
    eval_passes,
    source=source,
    model=vit.model,
    batch_size=batch_size,
    on_bad_image=policy,
  )
  if args.budgets is None and data.resolution is None:
    (one,) = make(data, sizes=(), packing=None)
    with blaming("--patch_sizes"):
      sizes = choose_sizes(args.patch_sizes, vit, one.loader.image_hw)
      for size in sizes:
        check_patch_size(vit.model, one.loader.image_hw, size)
    return (dataclasses.replace(one, sizes=tuple(sizes)),)
  with blaming("--patch_sizes"):
    sizes = choose_sizes(args.patch_sizes, vit, None)
  packing = run.packing if run else None
  if args.budgets is None:
    return make(data, sizes=sizes, packing=packing)
  passes = []
  # They would undo the aspect ratio before it is kept.
  sizing = [x for x in data.transforms if isinstance(x, augment.SIZING)]
  kept = tuple(x for x in data.transforms if x not in sizing)
  for transform in sizing:
    print(f"without {transform}: with --budgets images keep their aspect ratio")
  for budget in choose_budgets(args.budgets):
    length = max(budget, 256)
    slots = min(-(-2 * length // budget), length)
    rows = packs.Packing(length, slots, open_rows=16)
    own = dataclasses.replace(data, transforms=kept, resolution=NaFlex(budget))
    passes += make(own, sizes=sizes, packing=rows)
  return tuple(passes)


def choose_budgets(text) -> list[int]:
  """ "64,256" as [64, 256]."""
  try:
    budgets = list(dict.fromkeys(map(int, text.split(","))))
    for budget in budgets:
      NaFlex(budget)
  except ValueError:
    raise ConfigError(
      f"--budgets {text!r}: give numbers of patches, 64,256 say"
    ) from None
  return budgets


def check_classes(vit, source) -> None:
  """Refuses data whose labels the head cannot mean."""
  if vit.spec.classes and tuple(source.classes) != vit.spec.classes:
    raise ValueError(
      f"classes {list(source.classes)[:3]}..., but {vit.spec.path} was trained "
      f"on {list(vit.spec.classes)[:3]}..."
    )
  if len(source.classes) > (vit.model.num_classes or 0):
    raise ValueError(
      f"{len(source.classes)} classes, but the head of {vit.spec.path} has "
      f"{vit.model.num_classes or 'none'}"
    )


def choose_sizes(text, vit, image_hw) -> list[tuple[int, int]]:
  """The patch sizes that --patch_sizes asks for.

  Args:
    image_hw: of all images; None: they differ, or will be resized to fit.
  """
  trained = list(vit.spec.trained_sizes)
  if not trained and vit.spec.patch_size is not None:
    trained = [vit.spec.patch_size]
  if text is None:
    if not trained:
      raise ValueError(
        f"{vit.spec.path} does not say at which patch sizes it was trained: "
        "give some, 8,16,32 say"
      )
    sizes = trained
  elif ":" in text:
    try:
      low, high = map(int, text.split(":"))
    except ValueError:
      raise ValueError(f"{text!r} is no range: give 8:48, say") from None
    candidates = trained
    if not trained:
      if image_hw is None:
        raise ValueError(
          f"{vit.spec.path} does not say at which patch sizes it was trained, "
          f"and any tile images of any size: give some instead of {text}, "
          "8,16,32 say"
        )
      candidates = [(p, p) for p in common_divisors(image_hw)]
    sizes = [s for s in candidates if low <= min(s) and max(s) <= high]
    if not sizes:
      among = ", ".join(map(sweep.size_name, candidates))
      raise ValueError(f"none of {among} lies in {text}")
  else:
    sizes = list(dict.fromkeys(map(parse_hw, text.split(","))))
    if max(map(max, sizes)) > MAX_SIDE:
      raise ValueError(f"{text}: give patches of at most {MAX_SIDE} pixels")
  return sizes


def write(output: pathlib.Path, vit, data, points) -> None:
  results = {
    "checkpoint": vit.spec.path,
    "step": vit.spec.step,
    "data": repr(data.source),
    "points": [dataclasses.asdict(p) for p in points],
    "provenance": provenance.describe(),
  }
  (output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
  title = (
    f"{pathlib.Path(vit.spec.path).name}: one checkpoint, every patch size"
  )
  report.draw_curve(points, title, output / "curve.png")
  print(f"wrote {output}/results.json and {output}/curve.png")


if __name__ == "__main__":
  errors.run(main)
