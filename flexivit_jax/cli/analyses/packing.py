"""packing: rows of a config's training data, as a step gets them."""

import numpy as np

from flexivit_jax.analysis import packed_rows
from flexivit_jax.cli.analyses.contract import Analysis, Findings
from flexivit_jax.config import build
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.run.loaders import train_loader


def add_arguments(parser) -> None:
  parser.add_argument(
    "--config",
    required=True,
    metavar="FILE[:ARG]",
    help="config file with packing, and what to pass to its get_config",
  )
  parser.add_argument(
    "--rows", type=int, default=6, help="to draw; default: %(default)s"
  )


def run(args) -> Findings:
  if args.rows < 1:
    raise ConfigError(f"--rows {args.rows}: give at least 1")
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
  lengths = packed_rows.row_lengths(tokens)
  places = tokens.segments.size
  fill = sum(map(sum, lengths)) / places
  return Findings(
    figures={
      "packing": packed_rows.draw(
        tokens,
        title=(
          f"rows of {tokens.segments.shape[1]} patches, a colour for each "
          "image; hatched: padding"
        ),
        rows=args.rows,
      )
    },
    numbers={
      "segments": np.asarray(tokens.segments),
      "images_per_row": np.asarray([len(x) for x in lengths]),
    },
    lines=(
      f"{len(lengths)} rows of {tokens.segments.shape[1]} patches: "
      f"{100 * fill:.1f} % full, {np.mean([len(x) for x in lengths]):.1f} "
      "images in a row",
    ),
  )


ANALYSIS = Analysis(
  "packing",
  "rows of a config's training data, as a step gets them",
  add_arguments,
  run,
)
