"""The command `flexivit NAME ...`, also `python -m flexivit_jax NAME ...`."""

import importlib
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from flexivit_jax.cli import errors
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.core.text import did_you_mean, listed

ROOT = pathlib.Path(__file__).parents[2]


class Command(NamedTuple):
  """A command: the module that has its `main`, and its line in the help."""

  module: str
  meaning: str


COMMANDS = {
  "train": Command("train", "train a model, or resume a run"),
  "evaluate": Command("evaluate", "accuracy and cost at many patch sizes"),
  "predict": Command("flexivit_jax.cli.predict", "classes of image files"),
  "few-shot": Command(
    "flexivit_jax.cli.few_shot", "linear classifiers of frozen features"
  ),
  "sample": Command(
    "flexivit_jax.cli.sample", "images drawn by a diffusion model"
  ),
  "analysis": Command(
    "flexivit_jax.cli.analysis", "figures of weights and activations"
  ),
  "convert": Command(
    "flexivit_jax.cli.convert", "another format, patch size or image size"
  ),
  "export": Command(
    "flexivit_jax.cli.export", "jax.export programs for serving"
  ),
  "prepare": Command(
    "flexivit_jax.cli.prepare", "images as ArrayRecord files, fast to read"
  ),
  "plan": Command(
    "flexivit_jax.cli.plan", "memory, traffic and time on many devices"
  ),
}
_WIDTH = max(map(len, COMMANDS))
HELP = "\n".join(
  (
    "usage: flexivit NAME ...",
    "",
    *(f"  {name:{_WIDTH}}  {c.meaning}" for name, c in COMMANDS.items()),
    "",
    "flexivit NAME --help has the arguments of one.",
  )
)


def main(argv: Sequence[str] | None = None) -> None:
  """Runs one command.

  Args:
    argv: its name and its arguments; None: those of this process.

  Raises:
    ConfigError: no command has this name.
  """
  name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
  if name in ("-h", "--help"):
    print(HELP)
    return
  if name not in COMMANDS:
    raise ConfigError(
      f"there is no command {name!r}{did_you_mean(name, COMMANDS)}. Give one "
      f"of {listed(COMMANDS)}"
    )
  _module(COMMANDS[name].module).main(arguments)


def console() -> None:
  """The entry point `flexivit`."""
  errors.run(main)


def run_renamed(name: str) -> None:
  """Runs a command by the name of its module, and prints its new name."""
  print(f"note: this command is now: flexivit {name}", file=sys.stderr)
  errors.run(lambda: main([name, *sys.argv[1:]]))


def _module(name: str):
  if "." in name:
    return importlib.import_module(name)
  # train.py and evaluate.py are scripts of a checkout.
  if not (ROOT / f"{name}.py").is_file():
    raise ConfigError(
      f"{name}.py is not beside the package in {ROOT}. Run this command in a "
      "checkout, installed by pip install -e ."
    )
  if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
  return importlib.import_module(name)
