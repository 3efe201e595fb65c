"""Arguments of the commands: `--config`, overrides, and what was meant."""

import argparse
import dataclasses
import pathlib
import re
import shlex
import sys
from collections.abc import Sequence

from flexivit_jax.config.experiment import Experiment
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.core.text import cut, nearest


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


def parser(doc: str, name: str | None = None) -> Parser:
  """A parser whose help is the command's docstring.

  Args:
    name: of the command `flexivit NAME`; None: a script.
  """
  return Parser(
    prog=name and f"flexivit {name}",
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
  argv = sys.argv[1:] if argv is None else argv
  try:
    args, rest = parser.parse_known_args(argv)
  except ConfigError:
    # A misspelt --workdir is worth more than that --workdir is missing.
    for word, before in zip(argv, ("", *argv)):
      if before not in parser.names and (meant := _meant(word, parser)):
        raise ConfigError(_unknown(word, meant)) from None
    raise
  overrides, rest = [], list(rest)
  while rest:
    word = rest.pop(0)
    if not word.startswith("--config.") or "--config" not in parser.names:
      split = _split_override(overrides, word)
      raise ConfigError(split or _unknown(word, _meant(word, parser)))
    key = word.removeprefix("--config.")
    if "=" not in key:
      # Numbers below 0 are values, other words with a dash are arguments.
      if not rest or re.match(r"=$|-(?!\.?\d)", rest[0]):
        raise ConfigError(f"{word} needs a value: {word}=VALUE")
      key = f"{key}={rest.pop(0)}"
    overrides.append(key)
  return args, overrides


def command(name: str, argv: Sequence[str] | None) -> str:
  """`flexivit NAME` with its arguments, to be pasted into a shell."""
  words = sys.argv[1:] if argv is None else argv
  return shlex.join(["python", "-m", "flexivit_jax", name, *words])


def output_directory(args: argparse.Namespace) -> pathlib.Path:
  """The directory of --output, which need not exist yet.

  Raises:
    ConfigError: it cannot become a directory, a file being in its place or
      above it.
  """
  output = pathlib.Path(args.output)
  existing = next(p for p in (output, *output.parents) if p.exists())
  if not existing.is_dir():
    above = "" if existing == output else f": {existing}"
    raise ConfigError(f"--output {output}{above} is a file: give a directory")
  return output


def _meant(word, parser):
  """The argument that a word was meant to be, or None."""
  name, equals, value = word.partition("=")
  bare = name.lstrip("-\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}")
  with_dash = bare != name
  if name in parser.names:
    return None
  if "--config" in parser.names:
    if name.startswith("--config."):
      return None
    head, dot, tail = bare.partition(".")
    # Only what has dashes may be misspelt: configs/x.py is a file.
    near = nearest(head, ["config"])
    if dot and (head.lower() == "config" or (with_dash and near)):
      return f"--config.{tail}{equals}{value}"
    fields = {f.name for f in dataclasses.fields(Experiment)}
    if head in fields and (with_dash or equals or dot):
      return f"--config.{bare}{equals}{value}"
    if re.search(r"\.py(:|$)", word) and not with_dash:
      return f"--config {word}"
  if not with_dash:
    return None
  return nearest(f"--{bare}", parser.names)


def _unknown(word, meant):
  if len(word) > 100:
    word, meant = cut(word, 100), None
  if meant is None:
    return f"unknown argument {word!r} (try --help)"
  if meant == f"--{word}":
    value = "" if "=" in word else "=VALUE"
    return f"{word!r} lacks its dashes: write {meant}{value}"
  return f"unknown argument {word!r}; did you mean {meant}? (try --help)"


def _split_override(overrides, word):
  """Message for a word that the shell cut off the override before it."""
  if not overrides or word.startswith("-"):
    return None
  before = overrides[-1]
  if before.endswith("="):
    return f"--config.{before} {word}: write --config.{before}{word}, no space"
  if sum(map(before.count, "([{")) > sum(map(before.count, ")]}")):
    return f"--config.{before} {word}: put it in quotes, '--config.{before}...'"
  return None
