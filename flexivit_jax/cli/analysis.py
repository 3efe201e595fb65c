"""Looks inside a checkpoint, or a resize: figures and their numbers.

  flexivit analysis resize --from 32 --to 8,12,16
  flexivit analysis filters --checkpoint vit.npz --output DIR
  flexivit analysis NAME --help

Each figure is written as PNG and SVG, its numbers as NAME.npz: docs/analysis.md
says how to read them.
"""

import pathlib
import sys

import matplotlib
import numpy as np

from flexivit_jax.cli import arguments
from flexivit_jax.cli import main as main_lib
from flexivit_jax.cli.analyses import (
  attention_distance,
  attention_maps,
  cka,
  filters,
  packing,
  pca,
  positions,
  resize,
  rollout,
)
from flexivit_jax.cli.analyses.contract import Analysis, Findings
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.core.text import nearest

ANALYSES: tuple[Analysis, ...] = (
  resize.ANALYSIS,
  filters.ANALYSIS,
  positions.ANALYSIS,
  attention_distance.ANALYSIS,
  rollout.ANALYSIS,
  attention_maps.ANALYSIS,
  cka.ANALYSIS,
  pca.ANALYSIS,
  packing.ANALYSIS,
)


def main(argv=None):
  argv = list(sys.argv[1:] if argv is None else argv)
  everything = arguments.parser(__doc__, "analysis")
  subparsers = everything.add_subparsers(metavar="NAME", dest="name")
  parsers = {}
  for analysis in ANALYSES:
    parser = subparsers.add_parser(
      analysis.name,
      help=analysis.help,
      description=analysis.help,
      allow_abbrev=False,
    )
    analysis.add_arguments(parser)
    parser.add_argument(
      "--output",
      metavar="DIR",
      default="analysis",
      help="where to write; default: %(default)s",
    )
    parsers[analysis.name] = parser
  name = argv[0] if argv else None
  if name not in parsers:
    if not argv or {"-h", "--help"}.isdisjoint(argv):
      raise ConfigError(_unknown(name))
    everything.parse_args(["--help"])
  # By the parser of one analysis alone, which knows what may be misspelt.
  args, _ = arguments.parse(parsers[name], argv[1:])
  output = arguments.output_directory(args)
  (analysis,) = (x for x in ANALYSES if x.name == name)
  findings = analysis.run(args)
  for line in findings.lines:
    print(line)
  print(f"wrote {', '.join(write(output, name, findings))}")


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


if __name__ == "__main__":
  main_lib.run_renamed("analysis")
