"""positions: cosine similarity of position embeddings, stored and resized."""

import pathlib

import numpy as np

from flexivit_jax.analysis import positions
from flexivit_jax.cli import checkpoint_arguments
from flexivit_jax.cli.analyses import contract
from flexivit_jax.cli.analyses.contract import Analysis, Findings
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.core.sizes import parse_hw
from flexivit_jax.core.text import align, cut

# A map of 32x32 for each of 32x32 patches is a million dots.
MOST = 32
# For positions without a table; ViT's own at 224 px.
USUAL = (14, 14)


def add_arguments(parser) -> None:
  checkpoint_arguments.add_checkpoint(parser)
  parser.add_argument(
    "--grids",
    help="7x7,15x10: rows and columns of patches, beside the stored table; "
    f"default: that alone, or {USUAL[0]}x{USUAL[1]} where there is none",
  )


def run(args) -> Findings:
  grids = [] if args.grids is None else _grids(args.grids)
  checkpoint = contract.read(args)
  model = checkpoint.model
  stored = positions.stored_grid(model.position)
  if stored is not None and max(stored) <= MOST:
    grids = [stored, *grids]
  if not grids and stored is not None:
    raise ConfigError(
      f"the stored positions are for {stored[0]}x{stored[1]} patches, more "
      f"than {MOST}x{MOST}, which a figure can show: give --grids, 16x16 say"
    )
  grids = list(dict.fromkeys(grids or [USUAL]))
  with config_errors_at("--checkpoint"):
    positions.embeddings(
      model.position, checkpoint.arrays, (1, 1), model.size.width
    )
  with config_errors_at("--grids"):
    found = [
      positions.similarity(
        model.position, checkpoint.arrays, grid, model.size.width
      )
      for grid in grids
    ]
  names = [f"{x.grid_hw[0]}x{x.grid_hw[1]}" for x in found]
  source = cut(pathlib.Path(checkpoint.spec.path).name, 40)
  return Findings(
    figures={
      f"positions_{name}": positions.draw(
        x, title=f"{source}\npositions of {name} patches, {x.how}"
      )
      for name, x in zip(names, found)
    },
    numbers={f"cosines_{name}": x.cosines for name, x in zip(names, found)},
    lines=(
      "mean cosine of patches in the same row or column, less that of others:",
      align(
        [(name, x.how, _cross(x)) for name, x in zip(names, found)],
        left=2,
      ),
    ),
  )


def _cross(found):
  return "none" if np.isnan(found.cross) else f"{found.cross:+.3f}"


def _grids(text) -> list[tuple[int, int]]:
  """ "7x7,15x10" as [(7, 7), (15, 10)]."""
  try:
    grids = [parse_hw(x) for x in text.split(",")]
  except ValueError:
    raise ConfigError(
      f"--grids {text!r}: give rows and columns of patches, 7x7,15x10 say"
    ) from None
  for rows, cols in grids:
    if max(rows, cols) > MOST:
      raise ConfigError(
        f"--grids {rows}x{cols}: give at most {MOST}x{MOST} patches, more "
        "cannot be seen in a figure"
      )
  return grids


ANALYSIS = Analysis(
  name="positions",
  help="cosine similarity of position embeddings, stored and interpolated",
  add_arguments=add_arguments,
  run=run,
)
