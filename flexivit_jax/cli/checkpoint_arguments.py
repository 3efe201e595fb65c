"""The checkpoint that a command works on: arguments, and reading it."""

from typing import Any

from flexivit_jax.checkpoints import load
from flexivit_jax.checkpoints.model import LoadedModel, StoredModel
from flexivit_jax.cli.arguments import Parser
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.core.sizes import parse_hw
from flexivit_jax.nn import adaln


def add_source(parser: Parser) -> None:
  """IN, which step of it, and what its file may not say."""
  parser.add_argument(
    "source", metavar="IN", help="a checkpoint, or a published one's name"
  )
  _add_step_and_facts(parser)


def add_checkpoint(parser: Parser) -> None:
  """--checkpoint, which step of it, and what its file may not say."""
  parser.add_argument(
    "--checkpoint",
    required=True,
    help="a run, a file or directory of another program, or the name of a "
    "published model: docs/checkpoints.md",
  )
  _add_step_and_facts(parser)


def add_run(parser: Parser) -> None:
  """--checkpoint of a command that takes runs alone, and its parameters."""
  parser.add_argument("--checkpoint", required=True, help="a run")
  _add_step_and_ema(parser)


def _add_step_and_ema(parser: Parser) -> None:
  add = parser.add_argument
  add("--step", type=int, help="of a run: which checkpoint; default: the best")
  add(
    "--no_ema",
    dest="ema",
    action="store_false",
    help="of a run that kept a moving average of its parameters: take the "
    "parameters themselves",
  )


def _add_step_and_facts(parser: Parser) -> None:
  """Step, and what a checkpoint's file may not say."""
  _add_step_and_ema(parser)
  add = parser.add_argument
  add("--num_heads", type=int, help="where the checkpoint does not say")
  add("--gelu", choices=("tanh", "exact"), help="the same")
  add("--eps", type=float, help="the same, of every norm")
  add("--pool", choices=("tok", "gap", "map"), help="the same")
  add("--posemb", help="the same: 7x7, rows and columns of the positions")
  add(
    "--posemb_resize",
    choices=("bilinear",),
    help="for a NaFlexVit that resizes its positions otherwise",
  )


def facts(args) -> dict[str, Any]:
  """Options of `load` that were given as arguments."""
  with config_errors_at("--posemb"):
    posemb = None if args.posemb is None else parse_hw(args.posemb)
  names = ("ema", "num_heads", "gelu", "eps", "pool", "posemb_resize")
  return {name: getattr(args, name) for name in names} | {"posemb": posemb}


def read(args) -> StoredModel:
  given = facts(args)
  with config_errors_at("IN"):
    return load.read(args.source, step=args.step, **given)


def load_vit(args) -> LoadedModel:
  """The model of --checkpoint, printed; it answers images of three channels.

  Raises:
    ConfigError: it cannot be read, or does not.
  """
  given = facts(args)
  with config_errors_at("--checkpoint"):
    vit = load.load(args.checkpoint, step=args.step, **given)
    adaln.refuse(vit.model.conditioning, args.checkpoint)
  print(vit, flush=True)
  check_channels(vit)
  return vit


def check_channels(vit: LoadedModel) -> None:
  """Refuse a model of other images than those with three channels."""
  if vit.model.channels != 3:
    raise ConfigError(
      f"--checkpoint: {vit.spec.path} takes images of {vit.model.channels} "
      "channels, and the images have 3"
    )
