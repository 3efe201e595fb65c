"""The checkpoint that a command works on: arguments, and reading it."""

from typing import Any

from flexivit_jax.checkpoints import load
from flexivit_jax.checkpoints.model import StoredModel
from flexivit_jax.cli.arguments import Parser
from flexivit_jax.core.errors import config_errors_at
from flexivit_jax.core.sizes import parse_hw


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
  """--checkpoint of a command that takes runs alone, and which of its
  parameters."""
  parser.add_argument("--checkpoint", required=True, help="a run")
  _add_step(parser)
  _add_ema(parser)


def _add_step_and_facts(parser: Parser) -> None:
  _add_step(parser)
  add_facts(parser)


def _add_step(parser: Parser) -> None:
  parser.add_argument(
    "--step", type=int, help="of a run: which checkpoint; default: the best"
  )


def _add_ema(parser: Parser) -> None:
  parser.add_argument(
    "--no_ema",
    dest="ema",
    action="store_false",
    help="of a run that kept a moving average of its parameters: take the "
    "parameters themselves",
  )


def add_facts(parser: Parser) -> None:
  """What a checkpoint's file may not say."""
  _add_ema(parser)
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
  """What was given of them, for `load`."""
  with config_errors_at("--posemb"):
    posemb = None if args.posemb is None else parse_hw(args.posemb)
  names = ("ema", "num_heads", "gelu", "eps", "pool", "posemb_resize")
  return {name: getattr(args, name) for name in names} | {"posemb": posemb}


def read(args) -> StoredModel:
  given = facts(args)
  with config_errors_at("IN"):
    return load.read(args.source, step=args.step, **given)
