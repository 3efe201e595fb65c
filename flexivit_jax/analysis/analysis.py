"""The record of one analysis: what it is given, its options and findings."""

import contextlib
import dataclasses
import enum
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from flexivit_jax.core.sizes import parse_hw
from flexivit_jax.nn.encoder import MAX_SIDE


class Refusal(ValueError):
  """An option or an input that an analysis cannot use; the text names it."""


@contextlib.contextmanager
def refusing(place: str):
  """Turns a ValueError into a Refusal that names a place: "--block", say."""
  try:
    yield
  except Refusal:
    raise
  except ValueError as e:
    raise Refusal(f"{place}: {e}") from e


class Given(enum.Enum):
  """The input of an analysis, which the command opens."""

  NOTHING = "nothing"
  STORED = "a checkpoint's arrays as they are stored"
  IMAGES = "a model and images: images.Subject"
  ROWS = "tokens of a config's first step"


@dataclasses.dataclass(frozen=True)
class Option:
  """One option, `--name TEXT` on the command line.

  Attributes:
    default: text as well; None leaves the value None.
    parse: from text to value; its ValueError says what to give.
    choices: texts, where only those can be given.
  """

  name: str
  help: str
  default: str | None = None
  parse: Callable[[str], Any] = str
  choices: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Findings:
  """The result of an analysis; the command writes it.

  Attributes:
    figures: by the name of the file, without its ending.
    numbers: of the figures, written into NAME.npz.
    lines: the headline numbers, to print.
  """

  figures: Mapping[str, Figure]
  numbers: Mapping[str, np.ndarray]
  lines: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Analysis:
  """One analysis.

  Attributes:
    help: one line, for the list of all.
    run: from the given input and the options' values by name. Writes nothing;
      refuses what cannot work, by a Refusal, before anything is compiled.
  """

  name: str
  help: str
  given: Given
  options: tuple[Option, ...]
  run: Callable[[Any, Mapping[str, Any]], Findings]


def whole(
  least: int | None = None, most: int | None = None
) -> Callable[[str], int]:
  """Parser of a whole number in a range."""
  asked = "a whole number" if least is None else f"at least {least}"
  if most is not None:
    asked = f"{least} to {most}"

  def parse(text):
    number = int(text) if re.fullmatch(r"-?\d{1,9}", text) else None
    low = number is not None and (least is None or number >= least)
    if not low or (most is not None and number > most):
      raise ValueError(f"give {asked}")
    return number

  return parse


def patch_sizes(text: str) -> list[tuple[int, int]]:
  """Parse "8,16x12" as [(8, 8), (16, 12)], each size once."""
  sizes = list(dict.fromkeys(map(parse_hw, text.split(","))))
  if max(map(max, sizes)) > MAX_SIDE:
    raise ValueError(f"give patches of at most {MAX_SIDE} pixels")
  return sizes
