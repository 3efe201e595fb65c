"""What the commands share: `--config`, overrides, and errors in a few lines."""

import argparse
import dataclasses
import difflib
import errno
import os
import pathlib
import re
import select
import shutil
import sys
from collections.abc import Callable, Sequence

from flexivit_jax.core.faults import Fault
from flexivit_jax.data.images import BadImageError
from flexivit_jax.experiment import ConfigError, Experiment


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
    near = difflib.get_close_matches(head.lower(), ["config"])
    if dot and (head.lower() == "config" or (with_dash and near)):
      return f"--config.{tail}{equals}{value}"
    fields = {f.name for f in dataclasses.fields(Experiment)}
    if head in fields and (with_dash or equals or dot):
      return f"--config.{bare}{equals}{value}"
    if re.search(r"\.py(:|$)", word) and not with_dash:
      return f"--config {word}"
  if not with_dash:
    return None
  close = difflib.get_close_matches(f"--{bare.lower()}", parser.names, n=1)
  return close[0] if close else None


def _unknown(word, meant):
  if len(word) > 100:
    word, meant = f"{word[:97]}...", None
  if meant is None:
    return f"unknown argument {word!r} (try --help)"
  if meant == f"--{word}":
    value = "" if "=" in word else "=VALUE"
    return f"{word!r} lacks its dashes: write {meant}{value}"
  return f"unknown argument {word!r}; did you mean {meant}? (try --help)"


def _split_override(overrides, word):
  """What to say of a word that the shell cut off the override before it."""
  if not overrides or word.startswith("-"):
    return None
  before = overrides[-1]
  if before.endswith("="):
    return f"--config.{before} {word}: write --config.{before}{word}, no space"
  if sum(map(before.count, "([{")) > sum(map(before.count, ")]}")):
    return f"--config.{before} {word}: put it in quotes, '--config.{before}...'"
  return None


def run(main: Callable[[], None]) -> None:
  """Runs a command; what is no bug of ours ends it in a few lines.

  Status 2: what the user wrote. 1: a fault of files or machines. 130: Ctrl-C.
  """
  try:
    main()
    sys.stdout.flush()  # a reader that left is noticed here, not at exit
  except ConfigError as e:
    _end(f"error: {e}", 2)
  except BadImageError as e:
    way_out = "mend it, or go on without it: --config.on_bad_image=skip"
    _end(f"error: {e}\n{way_out}", 1)
  except Fault as e:
    _end(f"error: {e}", 1)
  except BrokenPipeError:
    if not any(map(_lost_its_reader, (sys.stdout, sys.stderr))):
      raise  # another pipe, a worker's say
    _drop_output()
    sys.exit(141)  # 128 + SIGPIPE
  except OSError as e:
    text = _describe(e)
    if text is None:
      raise
    _end(f"error: {text}", 1)
  except KeyboardInterrupt:
    _end("interrupted; the same command goes on", 130)


def _end(text, status):
  print(text, file=sys.stderr)
  _drop_output()
  sys.exit(status)


def _drop_output():
  """Drops what cannot be printed: Python would complain of it at exit."""
  for stream in (sys.stdout, sys.stderr):
    try:
      stream.flush()
    except OSError:
      os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _lost_its_reader(stream):
  try:
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
  except (OSError, ValueError):  # no file at all, or closed
    return False
  broken = select.POLLERR | select.POLLHUP
  return any(events & broken for _, events in poll.poll(0))


def _describe(error):
  """An error of the operating system in a line; None without a path."""
  full = error.errno in (errno.ENOSPC, errno.EDQUOT)
  name = error.filename
  if not isinstance(name, (str, bytes, os.PathLike)):
    if not full:
      return None
    place, free = "", ""
  else:
    path = pathlib.Path(os.fsdecode(name))
    place, free = f"{path}: ", _free(path)
  if not full:
    return f"{place}{error.strerror}"
  return (
    f"{place}{error.strerror}{free}: free some space, then the same command "
    "goes on"
  )


def _free(path):
  """ " (0.02 of 50.00 GB free)" on the path's file system."""
  existing = next(p for p in (path, *path.parents) if os.path.exists(p))
  try:
    usage = shutil.disk_usage(existing)
  except OSError:
    return ""
  return f" ({usage.free / 1e9:.2f} of {usage.total / 1e9:.2f} GB free)"
