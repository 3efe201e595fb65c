"""`key.sub_key=value` of the command line, applied to plain values."""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from flexivit_jax.config.file import to_plain
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.core.text import cut, did_you_mean, listed, show


def apply(raw: dict[str, Any], override: str) -> dict[str, Any]:
  """Sets `a.b=value` in nested dicts, in place.

  Setting a choice's `name` to another one drops its other fields: they belong
  to the class that it named before.

  Returns:
    What was dropped.
  """
  key, equals, text = override.partition("=")
  if not equals:
    raise ConfigError(f"--config.{key}: write --config.{key}=VALUE")
  *parents, last = key.split(".")
  place = raw
  for i, parent in enumerate(parents):
    child = place.get(parent)
    if isinstance(child, str):
      child = place[parent] = {"name": child}
    if child is None and parent in place:
      child = place[parent] = {}  # what was left out may have fields
    if not isinstance(child, dict):
      where = ".".join(("config", *parents[: i + 1]))
      if parent in place:
        raise ConfigError(
          f"--config.{cut(key, 100)}: {where} is {show(child)} and has no "
          f"fields: give --config.{'.'.join(parents[: i + 1])}=VALUE"
        )
      raise ConfigError(
        f"--config.{cut(key, 100)}: there is no {cut(where, 100)}"
        f"{did_you_mean(parent, place)}; valid: {listed(place)}"
      )
    place = child
  try:
    value = to_plain(parse(text))
  except NOT_PYTHON:
    if _HOLDS_DICT.match(text):
      raise ConfigError(
        f"--config.{cut(key, 100)}: {show(text)} is not in Python's notation: "
        f"{QUOTES}"
      ) from None
    value = {"true": True, "false": False}.get(text, text)
  dropped = {}
  if last == "name" and place.get("name") not in (None, value):
    dropped = dict(place)
    place.clear()
  place[last] = value
  return dropped


# Raised for a text that is not a value in Python's notation, or is too deep.
NOT_PYTHON = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)
_HOLDS_DICT = re.compile(r"[(\[\s]*(\{|dict\()")
QUOTES = (
  "quote the texts in it, and the whole once more for the shell: "
  "'--config.KEY=(dict(name=\"x\", size=8),)'"
)


def parse(text: str):
  """A value in Python's notation, in which `dict(a=1)` is `{"a": 1}`.

  Raises: one of `NOT_PYTHON`.
  """
  return ast.literal_eval(_Dicts().visit(ast.parse(text.strip(), mode="eval")))


class _Dicts(ast.NodeTransformer):
  """Turns calls `dict(a=1)` into dicts; other calls stay, and are refused."""

  def visit_Call(self, node):
    self.generic_visit(node)
    names = [keyword.arg for keyword in node.keywords]
    is_dict = isinstance(node.func, ast.Name) and node.func.id == "dict"
    if not is_dict or node.args or len({*names} - {None}) < len(names):
      return node
    return ast.Dict(
      [ast.Constant(name) for name in names],
      [keyword.value for keyword in node.keywords],
    )


def describe_dropped(
  override: str,
  fields: Mapping[str, Any],
  later: Sequence[str],
  plain: Mapping[str, Any],
) -> str | None:
  """A line on fields that went with a choice's name; None: nothing was lost.

  Lost are fields that the new choice has too, with another value, and that no
  later override gave.

  Args:
    override: `a.name=value`.
    fields, later: what it dropped, and the overrides after it.
  """
  place = override.partition("=")[0].removesuffix(".name")
  given = tuple(f"{x.partition('=')[0]}." for x in later)
  now = flatten(plain)
  lost = [
    f"{key.removeprefix(f'{place}.')}={show(value)}"
    for key, value in flatten(fields, place).items()
    if key != f"{place}.name" and now.get(key, value) != value
    if not f"{key}.".startswith(given)
  ]
  if not lost:
    return None
  return (
    f"config.{override} leaves out {listed(lost)}: what is to stay must be "
    "given with it"
  )


def flatten(tree, prefix: str = "") -> dict[str, Any]:
  """Nested dicts as one of dotted keys."""
  if not isinstance(tree, Mapping):
    return {prefix: tree}
  flat = {}
  for key, value in tree.items():
    flat |= flatten(value, f"{prefix}.{key}" if prefix else key)
  return flat
