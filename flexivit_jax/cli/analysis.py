"""Looks inside a checkpoint, or a resize: figures and their numbers.

  flexivit analysis resize --from 32 --to 8,12,16
  flexivit analysis filters --checkpoint vit.npz --output DIR
  flexivit analysis NAME --help

Each figure is written as PNG and SVG, its numbers as NAME.npz: docs/analysis.md
says how to read them.
"""

import dataclasses
import pathlib
import sys

import matplotlib
import numpy as np

from flexivit_jax.analysis import (
  attention_distance,
  attention_maps,
  cka,
  filters,
  packed_rows,
  pca,
  positions,
  resizing,
  rollout,
)
from flexivit_jax.analysis.analysis import Analysis, Findings, Given, Refusal
from flexivit_jax.analysis.images import Subject, evenly
from flexivit_jax.checkpoints import load as load_lib
from flexivit_jax.checkpoints.model import LoadedModel, StoredModel, on_device
from flexivit_jax.cli import arguments, checkpoint_arguments, data_arguments
from flexivit_jax.cli import main as main_lib
from flexivit_jax.config import build
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.core.resolution import NaFlex
from flexivit_jax.core.sizes import parse_hw
from flexivit_jax.core.text import nearest
from flexivit_jax.data.dataset import Dataset
from flexivit_jax.data.pixels import preprocessing
from flexivit_jax.data.pixels import transforms as transforms_lib
from flexivit_jax.models.backbone import check_patch_size
from flexivit_jax.nn import adaln
from flexivit_jax.run.loaders import train_loader

ANALYSES: tuple[Analysis, ...] = (
  resizing.ANALYSIS,
  filters.ANALYSIS,
  positions.ANALYSIS,
  attention_distance.ANALYSIS,
  rollout.ANALYSIS,
  attention_maps.ANALYSIS,
  cka.ANALYSIS,
  pca.ANALYSIS,
  packed_rows.ANALYSIS,
)


def main(argv=None):
  argv = list(sys.argv[1:] if argv is None else argv)
  everything = arguments.parser(__doc__, "analysis")
  subparsers = everything.add_subparsers(metavar="NAME", dest="name")
  parsers = {x.name: _parser(subparsers, x) for x in ANALYSES}
  name = argv[0] if argv else None
  if name not in parsers:
    if not argv or {"-h", "--help"}.isdisjoint(argv):
      raise ConfigError(_unknown(name))
    everything.parse_args(["--help"])
  # By the parser of one analysis alone, which knows what may be misspelt.
  args, _ = arguments.parse(parsers[name], argv[1:])
  output = arguments.output_directory(args)
  (analysis,) = (x for x in ANALYSES if x.name == name)
  options = {x.name: _value(x, args) for x in analysis.options}
  try:
    findings = analysis.run(OPEN[analysis.given](args, options), options)
  except Refusal as e:
    raise ConfigError(str(e)) from e
  for line in findings.lines:
    print(line)
  print(f"wrote {', '.join(write(output, name, findings))}")


def _parser(subparsers, analysis):
  parser = subparsers.add_parser(
    analysis.name,
    help=analysis.help,
    description=analysis.help,
    allow_abbrev=False,
  )
  add = parser.add_argument
  if analysis.given in (Given.STORED, Given.IMAGES):
    checkpoint_arguments.add_checkpoint(parser)
  if analysis.given is Given.IMAGES:
    data_arguments.add_arguments(add)
    add("--resolution", help="240 or 240x320; with --data only")
    add(
      "--budget",
      type=int,
      help="256: most patches of an image, which is scaled to come near them "
      "and keeps its aspect ratio; instead of --resolution",
    )
  if analysis.given is Given.ROWS:
    add(
      "--config",
      required=True,
      metavar="FILE[:ARG]",
      help="config file with packing, and what to pass to its get_config",
    )
  for option in analysis.options:
    default = "" if option.default is None else f"; default: {option.default}"
    add(
      f"--{option.name}",
      default=option.default,
      choices=option.choices,
      help=option.help + default,
    )
  add(
    "--output",
    metavar="DIR",
    default="analysis",
    help="where to write; default: %(default)s",
  )
  return parser


def _value(option, args):
  text = getattr(args, option.name)
  try:
    return None if text is None else option.parse(text)
  except ValueError as e:
    raise ConfigError(f"--{option.name} {text}: {e}") from e


def _unknown(name):
  names = [x.name for x in ANALYSES]
  if name is None:
    return f"give the name of an analysis: {', '.join(names)} (try --help)"
  meant = nearest(name, names)
  hint = f" (did you mean {meant}?)" if meant else ""
  return f"no analysis {name!r}{hint}: give one of {', '.join(names)}"


def write(output: pathlib.Path, name: str, findings: Findings) -> list[str]:
  """Writes figures and numbers; returns the paths."""
  output.mkdir(parents=True, exist_ok=True)
  written = []
  # The same findings give the same bytes.
  with matplotlib.rc_context({"svg.hashsalt": "flexivit_jax"}):
    for figure_name, figure in findings.figures.items():
      for ending, metadata in (("png", {}), ("svg", {"Date": None})):
        path = output / f"{figure_name}.{ending}"
        figure.savefig(path, dpi=150, metadata=metadata)
        written.append(str(path))
  path = output / f"{name}.npz"
  np.savez_compressed(path, **findings.numbers)
  return [*written, str(path)]


def read(args) -> StoredModel:
  """The checkpoint's arrays as they are stored; prints what was found."""
  given = checkpoint_arguments.facts(args)
  with config_errors_at("--checkpoint"):
    checkpoint = load_lib.read(args.checkpoint, step=args.step, **given)
  print(checkpoint, flush=True)
  return checkpoint


def load(args) -> LoadedModel:
  """The checkpoint, ready to call."""
  checkpoint = read(args)
  with config_errors_at("--checkpoint"):
    adaln.refuse(checkpoint.model.conditioning, args.checkpoint)
  return on_device(checkpoint)


def open_rows(args):
  """The tokens of the first step that a config would train on."""
  experiment = build.load(args.config, ())
  if experiment.packing is None:
    raise ConfigError(
      f"--config {args.config} packs nothing: its images are of one size; "
      "configs/navit_digits.py packs, say"
    )
  with config_errors_at("config.train"):
    loader = train_loader(experiment, experiment.open(experiment.train))
    tokens = next(loader).inputs
  loader.close()
  return tokens


def open_images(args, options) -> Subject:
  """The model and images asked for, checked before anything is compiled.

  Raises:
    ConfigError: an argument cannot be used.
    Fault: an image cannot be decoded.
  """
  resolution = None
  if args.budget is not None:
    with config_errors_at("--budget"):
      resolution = NaFlex(args.budget)
  vit = load(args)
  model = vit.model
  checkpoint_arguments.check_channels(vit)
  if model.num_classes is None:
    model = model.clone(num_classes=0)
  data = choose_data(args, vit)
  resolution = resolution or data.resolution
  name = "patch_sizes" if "patch_sizes" in options else "patch_size"
  sizes = options[name] or usual_sizes(vit.spec, name)
  with config_errors_at("--data" if args.data else "config.test"):
    mode = data_arguments.choose_mode(
      args, vit.spec.experiment, packed=resolution is not None
    )
    source = preprocessing.open_source(data.source, mode)
  images, numbers = evenly(
    source, data.transforms, options["images"], one_size=resolution is None
  )
  if resolution is None:
    with (
      config_errors_at(f"--{name}"),
      data_arguments.offering("--resolution, with --data,"),
    ):
      for size in sizes:
        check_patch_size(model, images[0].shape[:2], size)
  described = data_arguments.describe(data.source, mode)
  return Subject(
    model, vit.params, images, numbers, resolution, sizes, described
  )


def choose_data(args, vit) -> Dataset:
  """The data that --data names, or a run's own test data."""
  data_arguments.check_one_way(args, "budget", "resolution")
  if args.data is None:
    return _test_data(args, vit.spec.experiment)
  transforms, size = (), None
  with config_errors_at("--resolution"):
    if args.resolution:
      size = parse_hw(args.resolution)
      transforms = (transforms_lib.Resize(size),)
    source = data_arguments.source(args, max(size) if size else None)
  sized = size is not None or args.budget is not None
  data_arguments.check_sized(args, sized, "--resolution, 240 say, or --budget")
  return Dataset(source, transforms)


def _test_data(args, run) -> Dataset:
  data = data_arguments.run_test_data(args, run, "resolution")
  if args.budget is None:
    return data
  # Images keep their aspect ratio: nothing before may undo it.
  kept = (
    x for x in data.transforms if not isinstance(x, transforms_lib.SIZING)
  )
  return dataclasses.replace(data, transforms=tuple(kept))


def usual_sizes(spec, name: str) -> list[tuple[int, int]]:
  """The patch sizes that a checkpoint names; the smallest for one alone."""
  sizes = sorted(spec.trained_sizes, key=np.prod)
  if not sizes and spec.patch_size is not None:
    sizes = [spec.patch_size]
  several = name == "patch_sizes"
  if not sizes:
    raise ConfigError(
      f"--{name}: {spec.path} does not say at which patch sizes it was "
      f"trained: give {'some, 8,16,32 say' if several else 'one, 16 say'}"
    )
  return sizes if several else sizes[:1]


OPEN = {
  Given.NOTHING: lambda args, options: None,
  Given.STORED: lambda args, options: read(args),
  Given.IMAGES: open_images,
  Given.ROWS: lambda args, options: open_rows(args),
}


if __name__ == "__main__":
  main_lib.run_renamed("analysis")
