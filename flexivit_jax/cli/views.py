"""Arguments of evaluate.py: data, views of it, patch sizes."""

import functools
from collections.abc import Callable

from jax.sharding import Mesh

from flexivit_jax.checkpoints.model import LoadedModel
from flexivit_jax.cli import data_arguments
from flexivit_jax.config import registry
from flexivit_jax.config.experiment import Experiment
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.core.resolution import NaFlex
from flexivit_jax.core.sizes import (
  TilingError,
  common_divisors,
  parse_hw,
  size_name,
)
from flexivit_jax.data.dataset import Dataset
from flexivit_jax.data.loading import bad_images
from flexivit_jax.data.packing import rows as rows_lib
from flexivit_jax.data.pixels import transforms
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.evaluation import eval_transforms, open_reading
from flexivit_jax.evaluation.reading import Reading
from flexivit_jax.models.backbone import check_patch_size
from flexivit_jax.nn.encoder import MAX_SIDE
from flexivit_jax.nn.stems import stem
from flexivit_jax.run.loaders import eval_reading

Size = tuple[int, int]


def add_arguments(add: Callable) -> None:
  add(
    "--patch_sizes",
    help="4,6,8x6 or 8:48, the sizes in that range that it was trained at or, "
    "where that is unknown, that tile the image; default: those trained at",
  )
  data_arguments.add_arguments(add)
  add(
    "--resolutions",
    help="160,240,240x320: image sizes to measure at; default: a run's own",
  )
  add(
    "--resize_first",
    help="272 or 272x360: squash to this size first, and take the centre of "
    "--resolutions, as FlexiViT's paper does",
  )
  add(
    "--budgets",
    help="64,256: most patches of an image, which is scaled to come near them "
    "and keeps its aspect ratio; instead of --resolutions",
  )


def add_loading_arguments(add: Callable) -> None:
  add("--batch_size", type=int, help="default: the run's, or 128")
  add(
    "--on_bad_image",
    choices=tuple(registry.CHOICES[bad_images.OnBadImage]),
    help="whether an image that cannot be decoded ends the evaluation, or is "
    "left out; default: the run's, or error",
  )


def choose_batch_size(args, run: Experiment | None, mesh: Mesh) -> int:
  """Over all devices: as asked for, or the run's, or 128; rounded up."""
  size = args.batch_size
  if size is None:
    size = run.eval_batch_size if run else 128
  if size < 1:
    raise ConfigError(f"--batch_size {size}: give at least 1")
  return mesh_lib.round_up(size, mesh)


def choose_policy(args, run: Experiment | None) -> bad_images.OnBadImage:
  """For images that cannot be decoded: as asked for, or the run's."""
  if args.on_bad_image:
    return registry.CHOICES[bad_images.OnBadImage][args.on_bad_image]()
  return run.on_bad_image if run else bad_images.ERROR


def choose_data(args, run) -> Dataset:
  """The images that --data asks for, or a run's own test data.

  Files of any size are prepared as those of the run's evaluation, unless the
  arguments say to which size.
  """
  data_arguments.check_one_way(args, "budgets", "resolutions")
  if args.resize_first and not args.resolutions:
    raise ConfigError(
      "--resize_first needs --resolutions, the size of the centre"
    )
  if args.data is None:
    return data_arguments.run_test_data(args, run)
  side = None
  if args.resolutions:
    side = max(map(max, (*choose_resolutions(args), *_first(args))))
  with config_errors_at("--resolutions"):
    source = data_arguments.source(args, side)
  sized = bool(args.resolutions or args.budgets)
  if run is not None and not sized and data_arguments.is_of_any_size(args):
    usual = eval_transforms.of_run(run)
    if usual is not None:
      print(f"{', '.join(map(repr, usual.steps))} ({usual.origin})")
      return Dataset(source, usual.transforms, usual.resolution)
  data_arguments.check_sized(
    args, sized, "--resolutions, 240 say, or --budgets"
  )
  return Dataset(source)


def choose_resolutions(args) -> list[Size]:
  """ "160,240x320" as [(160, 160), (240, 320)]."""
  with config_errors_at("--resolutions"):
    return list(dict.fromkeys(map(parse_hw, args.resolutions.split(","))))


def _first(args) -> list[Size]:
  if args.resize_first is None:
    return []
  with config_errors_at("--resize_first"):
    return [parse_hw(args.resize_first)]


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


def choose_reading(args, vit, data, source, batch_size, policy) -> Reading:
  """Open the reading of --patch_sizes, --resolutions and --budgets.

  Args:
    data: by `choose_data`; `source` is its source, opened.
    policy: for images that cannot be decoded.
  """
  run = vit.spec.experiment
  options = {"batch_size": batch_size, "on_bad_image": policy}
  if args.budgets is not None:
    with config_errors_at("--budgets"):
      stem.check_packing(vit.model.stem)
    budgets = choose_budgets(args.budgets)
    rows = [(NaFlex(n), rows_lib.rows_for(n)) for n in budgets]
    why = "with --budgets images keep their aspect ratio"
    kept = _without_sizing(data, why)
    sizes = _sizes_of_any_image(args.patch_sizes, vit)
    return open_reading.packed(
      source, kept, rows, sizes, model=vit.model, shard=(0, 1), **options
    )
  if args.resolutions is None and data.resolution is not None:
    sizes = _sizes_of_any_image(args.patch_sizes, vit)
    options |= {"model": vit.model, "packing": run.packing}
    return eval_reading(data, source, sizes, **options)
  views = [data.transforms]
  if args.resolutions is not None:
    kept = _without_sizing(data, "--resolutions asks for others")
    views = _views(args, kept)
  sizes = functools.partial(
    _tiling_sizes, args.patch_sizes, vit, several=len(views) > 1
  )
  with (
    config_errors_at("--patch_sizes"),
    data_arguments.offering("--resolutions"),
  ):
    reading = open_reading.of_one_size(
      source, views, sizes, shard=(0, 1), **options
    )
    for settings in reading.views:
      for setting in settings:
        check_patch_size(vit.model, setting.image_hw, setting.patch_hw)
  return reading


def report_scaled_down(reading: Reading) -> None:
  """Prints how many images of a finished reading were too large for the
  model's positions."""
  counts = getattr(reading.loader, "scaled_down", [])
  for count, settings in zip(counts, reading.views):
    for setting in settings:
      if count:
        print(
          f"at budget {setting.budget} and {size_name(setting.patch_hw)} px, "
          f"{count} images have more patches than the model has positions for: "
          "scaled down"
        )


def _without_sizing(data, why) -> tuple[transforms.Transform, ...]:
  """The transforms that leave an image's size alone."""
  sizing = [x for x in data.transforms if isinstance(x, transforms.SIZING)]
  for transform in sizing:
    print(f"without {transform}: {why}")
  return tuple(x for x in data.transforms if x not in sizing)


def _views(args, kept) -> list[tuple[transforms.Transform, ...]]:
  resolutions, first = choose_resolutions(args), _first(args)
  if not first:
    return [(*kept, transforms.Resize(hw)) for hw in resolutions]
  if len(resolutions) > 1:
    raise ConfigError(
      f"--resize_first {args.resize_first}: give one of --resolutions with it, "
      f"not {len(resolutions)}"
    )
  with config_errors_at("--resize_first"):
    steps = transforms.Resize(*first), transforms.CentralCrop(*resolutions)
    return [(*kept, *steps)]


def _sizes_of_any_image(text, vit):
  with config_errors_at("--patch_sizes"):
    return choose_sizes(text, vit, None)


def _tiling_sizes(text, vit, image_hw, *, several: bool) -> list[Size]:
  """Sizes asked for; with several resolutions those that tile this one."""
  sizes = choose_sizes(text, vit, image_hw)
  if not several:
    return sizes
  h, w = image_hw
  kept = [size for size in sizes if not (h % size[0] or w % size[1])]
  if not kept:
    tiling = common_divisors(image_hw, vit.model.stem.stride)
    ways = f"; {', '.join(map(str, tiling))} do" if tiling else ""
    raise TilingError(
      f"none of {', '.join(map(size_name, sizes))} tiles images of {h}x{w} "
      f"pixels{ways}"
    )
  if left := [size for size in sizes if size not in kept]:
    names = ", ".join(map(size_name, left))
    print(f"without {names} px at {size_name(image_hw)}: they do not tile it")
  return kept


def choose_sizes(text, vit: LoadedModel, image_hw: Size | None) -> list[Size]:
  """The patch sizes that --patch_sizes asks for.

  Args:
    image_hw: of all images; None: they differ, or will be resized to fit.

  Raises:
    ValueError: none is known, or the text is no list and no range.
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
    return trained
  if ":" in text:
    return _in_range(text, trained, vit, image_hw)
  sizes = list(dict.fromkeys(map(parse_hw, text.split(","))))
  if max(map(max, sizes)) > MAX_SIDE:
    raise ValueError(f"{text}: give patches of at most {MAX_SIDE} pixels")
  return sizes


def _in_range(text, trained, vit, image_hw) -> list[Size]:
  """The sizes of a range, "8:48": those trained at, or that tile the image."""
  try:
    low, high = map(int, text.split(":"))
  except ValueError:
    raise ValueError(f"{text!r} is no range: give 8:48, say") from None
  if low > high:
    raise ValueError(f"{text!r} is no range: give {high}:{low}")
  if not trained and image_hw is None:
    raise ValueError(
      f"{vit.spec.path} does not say at which patch sizes it was trained, and "
      f"any tile images of any size: give some instead of {text}, 8,16,32 say"
    )
  stride = vit.model.stem.stride
  candidates = trained or [(p, p) for p in common_divisors(image_hw, stride)]
  sizes = [s for s in candidates if low <= min(s) and max(s) <= high]
  if not sizes:
    among = ", ".join(map(size_name, candidates))
    raise ValueError(f"none of {among} lies in {text}")
  return sizes
