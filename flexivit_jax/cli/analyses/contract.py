"""What one analysis is to the command line, and the checkpoint it reads."""

import argparse
import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.figure import Figure

from flexivit_jax import pretrained
from flexivit_jax.cli import reading
from flexivit_jax.cli.arguments import Parser
from flexivit_jax.experiment import blaming
from flexivit_jax.loaded import Checkpoint, LoadedViT, on_device
from flexivit_jax.nn import conditioning


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


def read(args: argparse.Namespace) -> Checkpoint:
  """The checkpoint's arrays as they are stored; prints what was found."""
  given = reading.facts(args)
  with blaming("--checkpoint"):
    checkpoint = pretrained.read(args.checkpoint, step=args.step, **given)
  print(checkpoint, flush=True)
  return checkpoint


def load(args: argparse.Namespace) -> LoadedViT:
  """As `read`, ready to call."""
  checkpoint = read(args)
  with blaming("--checkpoint"):
    conditioning.refuse(checkpoint.model.conditioning, args.checkpoint)
  return on_device(checkpoint)
