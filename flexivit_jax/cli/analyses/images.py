"""The images and patch sizes that an analysis of activations looks at."""

import argparse
import dataclasses

import numpy as np

from flexivit_jax.analysis import images as images_lib
from flexivit_jax.checkpoints.model import LoadedModel
from flexivit_jax.cli import checkpoint_arguments, data_arguments
from flexivit_jax.cli.analyses.contract import load
from flexivit_jax.cli.arguments import Parser
from flexivit_jax.core.errors import ConfigError, Fault, config_errors_at
from flexivit_jax.core.resolution import NaFlex, Resolution
from flexivit_jax.core.sizes import parse_hw
from flexivit_jax.data.dataset import Dataset
from flexivit_jax.data.loading.example import Example
from flexivit_jax.data.pixels import preprocessing
from flexivit_jax.data.pixels import transforms as transforms_lib
from flexivit_jax.data.pixels.decode import BadImageError
from flexivit_jax.models.backbone import check_patch_size
from flexivit_jax.nn.encoder import MAX_SIDE

# Images in a figure that shows each.
MOST_DRAWN = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
  """A model, and images at patch sizes that it can be given.

  Attributes:
    images: u8 `[h, w, 3]` each; of one size where there is no resolution.
    numbers: of the images in their data.
    resolution: the size of each image, which are then packed.
    sizes: of patches, in pixels.
    data: what the images are of.
  """

  vit: LoadedModel
  images: list[np.ndarray]
  numbers: list[int]
  resolution: Resolution | None
  sizes: list[tuple[int, int]]
  data: str

  def of_images(self, compute, patch_hw, names):
    """As `passes.of_images`."""
    return images_lib.of_images(
      compute,
      self.images,
      patch_hw,
      model=self.vit.model,
      params=self.vit.params,
      names=names,
      resolution=self.resolution,
    )

  def pixels(self, patch_hw) -> list[np.ndarray]:
    """The images as the model is given them."""
    return images_lib.pixels_of(
      self.images, patch_hw, self.vit.model, self.resolution
    )

  def grids(self, patch_hw) -> list[tuple[int, int]]:
    """(rows, cols) of patches of each image."""
    h, w = patch_hw
    return [(x.shape[0] // h, x.shape[1] // w) for x in self.pixels(patch_hw)]

  def __str__(self):
    return f"{len(self.images)} images of {self.data}"


def add_arguments(
  parser: Parser,
  *,
  images: int,
  most: int | None = None,
  several_sizes: bool = True,
) -> None:
  """--checkpoint and its own, --images of --data, --patch_size(s).

  Args:
    images: how many, unless asked.
    most: images that a figure can show; None: it does not show them.
  """
  checkpoint_arguments.add_checkpoint(parser)
  add = parser.add_argument
  add(
    "--images",
    type=int,
    default=images,
    help="how many, spread evenly over the data; default: %(default)s",
  )
  parser.set_defaults(most_images=most)
  data_arguments.add_arguments(add)
  add("--resolution", help="240 or 240x320; with --data only")
  add(
    "--budget",
    type=int,
    help="256: most patches of an image, which is scaled to come near them "
    "and keeps its aspect ratio; instead of --resolution",
  )
  if several_sizes:
    add(
      "--patch_sizes",
      help="4,6,8x6; default: those that it was trained at, or is used at",
    )
  else:
    add(
      "--patch_size",
      help="16 or 16x12; default: the smallest that it was trained at, or the "
      "one that it is used at",
    )


def choose(args: argparse.Namespace) -> Subject:
  """What was asked for, checked before anything is compiled.

  Raises:
    ConfigError: an argument cannot be used.
    Fault: an image cannot be decoded.
  """
  if args.images < 1:
    raise ConfigError(f"--images {args.images}: give at least 1")
  most = args.most_images
  if most is not None and args.images > most:
    raise ConfigError(
      f"--images {args.images}: each is drawn, so give at most {most}"
    )
  resolution = None
  if args.budget is not None:
    with config_errors_at("--budget"):
      resolution = NaFlex(args.budget)
  vit = load(args)
  if vit.model.channels != 3:
    raise ConfigError(
      f"--checkpoint: {vit.spec.path} takes images of {vit.model.channels} "
      "channels, and the images have 3"
    )
  if vit.model.num_classes is None:
    vit = dataclasses.replace(vit, model=vit.model.clone(num_classes=0))
  data = choose_data(args, vit)
  resolution = resolution or data.resolution
  sizes = choose_sizes(args, vit)
  with config_errors_at("--data" if args.data else "config.test"):
    mode = data_arguments.choose_mode(
      args, vit.spec.experiment, packed=resolution is not None
    )
    source = preprocessing.open_source(data.source, mode)
  images, numbers = read(
    source, data.transforms, args.images, one_size=resolution is None
  )
  if resolution is None:
    name = "--patch_sizes" if hasattr(args, "patch_sizes") else "--patch_size"
    with (
      config_errors_at(name),
      data_arguments.offering("--resolution, with --data,"),
    ):
      for size in sizes:
        check_patch_size(vit.model, images[0].shape[:2], size)
  described = data_arguments.describe(data.source, mode)
  return Subject(vit, images, numbers, resolution, sizes, described)


def choose_data(args, vit) -> Dataset:
  """What --data asks for, or a run's own test data."""
  if args.resolution and args.budget is not None:
    raise ConfigError(
      "--budget and --resolution: give one of them, the size of an image "
      "follows from its budget"
    )
  if args.data is None:
    run = vit.spec.experiment
    if run is None or run.test is None:
      raise ConfigError(
        f"{args.checkpoint} names no data: give --data digits, folder:PATH "
        "or tfds:NAME"
      )
    if args.resolution or args.split or args.data_dir:
      raise ConfigError(
        "--resolution, --split and --data_dir need --data: a run's test data "
        "has its own"
      )
    return run.test if args.budget is None else without_sizing(run.test)
  transforms, size = (), None
  if args.resolution:
    with config_errors_at("--resolution"):
      size = parse_hw(args.resolution)
      transforms = (transforms_lib.Resize(size),)
  with config_errors_at("--resolution"):
    source = data_arguments.source(args, max(size) if size else None)
  sized = size is not None or args.budget is not None
  data_arguments.check_sized(args, sized, "--resolution, 240 say, or --budget")
  return Dataset(source, transforms)


def without_sizing(data: Dataset) -> Dataset:
  """Images keep their aspect ratio: nothing before may undo it."""
  kept = [
    x for x in data.transforms if not isinstance(x, transforms_lib.SIZING)
  ]
  return dataclasses.replace(data, transforms=tuple(kept))


def choose_sizes(args, vit) -> list[tuple[int, int]]:
  """The patch sizes asked for; else those that the checkpoint names."""
  several = hasattr(args, "patch_sizes")
  name = "--patch_sizes" if several else "--patch_size"
  text = args.patch_sizes if several else args.patch_size
  if text is not None:
    with config_errors_at(name):
      parts = text.split(",") if several else [text]
      sizes = list(dict.fromkeys(map(parse_hw, parts)))
      if max(map(max, sizes)) > MAX_SIDE:
        raise ValueError(f"{text}: give patches of at most {MAX_SIDE} pixels")
    return sizes
  sizes = sorted(vit.spec.trained_sizes, key=np.prod)
  if not sizes and vit.spec.patch_size is not None:
    sizes = [vit.spec.patch_size]
  if not sizes:
    raise ConfigError(
      f"{name}: {vit.spec.path} does not say at which patch sizes it was "
      f"trained: give {'some, 8,16,32 say' if several else 'one, 16 say'}"
    )
  return sizes if several else sizes[:1]


def read(source, transforms, count, *, one_size):
  """So many images, spread evenly over a source, and their numbers."""
  count = min(count, len(source))
  numbers = np.linspace(0, len(source) - 1, count).round().astype(int).tolist()
  example, images = Example(source, transforms), []
  for number in numbers:
    try:
      images.append(example(number, None)[0])
    except BadImageError as e:
      raise Fault(f"{e}; mend it, or move it out of the data") from e
    if one_size:
      example = dataclasses.replace(example, shape=images[0].shape)
  return images, numbers
