"""What one analysis is to the command line, and the checkpoint it reads."""

import argparse
import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.figure import Figure

from flexivit_jax.checkpoints import load as load_lib
from flexivit_jax.checkpoints.model import LoadedModel, StoredModel, on_device
from flexivit_jax.cli import checkpoint_arguments
from flexivit_jax.cli.arguments import Parser
from flexivit_jax.core.errors import config_errors_at
from flexivit_jax.nn import adaln


@dataclasses.dataclass(frozen=True, eq=False)
class Findings:
  """What an analysis hands back; the command writes it.

  Attributes:
    figures: by the name of the file, without its ending; written as .png and
      .svg.
    numbers: what the figures show, written into NAME.npz.
    lines: the headline numbers, to print.
  """

  figures: Mapping[str, Figure]
  numbers: Mapping[str, np.ndarray]
  lines: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Analysis:
  """One subcommand.

  Attributes:
    name: of the subcommand, and of its .npz.
    help: one line, for the list of all.
    add_arguments: adds those that it uses to its own parser; --output is there
      for all.
    run: from the parsed arguments. Writes nothing; refuses what cannot work,
      by a ConfigError, before anything is compiled.
  """

  name: str
  help: str
  add_arguments: Callable[[Parser], None]
  run: Callable[[argparse.Namespace], Findings]


def read(args: argparse.Namespace) -> StoredModel:
  """The checkpoint's arrays as they are stored; prints what was found."""
  given = checkpoint_arguments.facts(args)
  with config_errors_at("--checkpoint"):
    checkpoint = load_lib.read(args.checkpoint, step=args.step, **given)
  print(checkpoint, flush=True)
  return checkpoint


def load(args: argparse.Namespace) -> LoadedModel:
  """As `read`, ready to call."""
  checkpoint = read(args)
  with config_errors_at("--checkpoint"):
    adaln.refuse(checkpoint.model.conditioning, args.checkpoint)
  return on_device(checkpoint)
