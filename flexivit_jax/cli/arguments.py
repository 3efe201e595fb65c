"""What the commands share: `--config`, overrides, and errors in a few lines."""

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence

from flexivit_jax.data.images import BadImageError
from flexivit_jax.experiment import ConfigError


class Parser(argparse.ArgumentParser):
  """Knows the names of its arguments, and raises instead of exiting."""

  def __init__(self, *args, **kwargs):
    self.names: list[str] = []
    super().__init__(*args, **kwargs)

  def add_argument(self, *names, **kwargs):
    self.names += names
    return super().add_argument(*names, **kwargs)

  def error(self, message):
    raise ConfigError(f"{message} (try --help)")


def parser(doc: str) -> Parser:
  """A parser whose help is the command's docstring."""
  return Parser(
    description=doc,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )


def add_config(parser: Parser) -> None:
  parser.add_argument(
    "--config",
    required=True,
    metavar="FILE[:ARG]",
    help="config file, and what to pass to its get_config; "
    "--config.KEY=VALUE changes a value in it",
  )


def parse(
  parser: Parser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, list[str]]:
  """The arguments, and the `key=value` of every `--config.key=value`.

  Raises:
    ConfigError: an argument is neither.
  """
  args, rest = parser.parse_known_args(argv)
  overrides, rest = [], list(rest)
  while rest:
    word = rest.pop(0)
    if word.startswith("--config.") and "--config" in parser.names:
      key = word.removeprefix("--config.")
      if "=" not in key:
        if not rest or rest[0].startswith("--"):
          raise ConfigError(f"{word} needs a value: {word}=VALUE")
        key = f"{key}={rest.pop(0)}"
      overrides.append(key)
    elif word.startswith("config."):
      raise ConfigError(f"{word!r} lacks its dashes: write --{word}")
    else:
      name = word.partition("=")[0]
      close = difflib.get_close_matches(name, parser.names, n=1)
      hint = f"; did you mean {close[0]}?" if close else ""
      raise ConfigError(f"unknown argument {word!r}{hint} (try --help)")
  return args, overrides


def run(main: Callable[[], None]) -> None:
  """Runs a command; what the user can mend ends it in a line, status 2."""
  try:
    main()
  except ConfigError as e:
    print(f"error: {e}", file=sys.stderr)
    sys.exit(2)
  except BadImageError as e:
    print(f"error: {e}; replace it and try again", file=sys.stderr)
    sys.exit(1)
  except KeyboardInterrupt:
    print("interrupted; the same command goes on", file=sys.stderr)
    sys.exit(130)
