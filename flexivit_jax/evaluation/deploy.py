"""Selects the most accurate setting, optionally under a cost limit."""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence

from flexivit_jax.core.sizes import size_name
from flexivit_jax.core.text import nearest
from flexivit_jax.evaluation.settings import Point, Setting

Cost = Callable[[Point], float | None]


def multiply_adds(point: Point) -> float:
  return point.cost.multiply_adds


def latency(point: Point) -> float | None:
  """Median, in seconds."""
  return point.cost.latency_s and point.cost.latency_s[0]


def tokens(point: Point) -> float:
  return point.tokens


def memory(point: Point) -> float:
  """In bytes."""
  return point.cost.peak_bytes


@dataclasses.dataclass(frozen=True)
class Unit:
  """Unit of a limit.

  Attributes:
    size: in the unit of `cost`: seconds, multiply-adds, tokens or bytes.
    quantity: what `cost` is, as people call it.
  """

  name: str
  size: float
  cost: Cost
  quantity: str


UNITS = (
  Unit("ms", 1e-3, latency, "latency"),
  Unit("s", 1.0, latency, "latency"),
  Unit("MFLOP", 1e6, multiply_adds, "multiply-adds"),
  Unit("GFLOP", 1e9, multiply_adds, "multiply-adds"),
  Unit("TFLOP", 1e12, multiply_adds, "multiply-adds"),
  Unit("tokens", 1.0, tokens, "tokens"),
  Unit("MiB", 2.0**20, memory, "peak memory"),
  Unit("GiB", 2.0**30, memory, "peak memory"),
)
_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*(\S*)\s*")


@dataclasses.dataclass(frozen=True)
class Limit:
  """The most that a point may cost, the limit itself included.

  Attributes:
    most: in `unit`.
  """

  most: float
  unit: Unit

  def __str__(self) -> str:
    return f"{self.most:g} {self.unit.name}"

  def of(self, point: Point) -> float | None:
    """A point's cost in the limit's unit; None: not measured."""
    cost = self.unit.cost(point)
    return None if cost is None else cost / self.unit.size


def parse_limit(text: str) -> Limit:
  """A number and a unit: "5 ms", "10 GFLOP", "256 tokens", "1.5GiB".

  A FLOP is a multiply-add, as papers on ViTs count them. Case does not matter,
  nor does an "s" at the end of FLOPs.

  Raises:
    ValueError: it is something else, or not above 0.
  """
  names = [unit.name for unit in UNITS]
  example = f"give a number and one of {', '.join(names)}: 5 ms, say"
  match = _NUMBER.fullmatch(text)
  if match is None:
    raise ValueError(f"{text!r} is no limit: {example}")
  number, word = match.groups()
  if not word:
    raise ValueError(f"{text!r} has no unit: {example}")
  written = {unit.name.lower(): unit for unit in UNITS}
  written |= {f"{k}s": v for k, v in written.items() if k.endswith("flop")}
  written["token"] = written["tokens"]
  unit = written.get(word.lower())
  if unit is None:
    meant = nearest(word, names)
    hint = f"; {meant} is one" if meant else ""
    raise ValueError(f"{text!r} has an unknown unit{hint}: {example}")
  most = float(number)
  if not 0 < most < math.inf:
    raise ValueError(f"{text!r}: give a number above 0 that is no infinity")
  return Limit(most, unit)


def most_accurate(points: Sequence[Point]) -> Point:
  """Highest top-1; of equal ones that of the fewest multiply-adds, then the
  first."""
  return min(points, key=lambda p: (-p.top1, p.cost.multiply_adds))


def deploy(points: Sequence[Point], limit: Limit) -> Point | None:
  """The most accurate point under a limit; None: no point is.

  Of equally accurate ones that which costs least of what is limited, then
  that of the fewest multiply-adds, then the first.
  """
  measured = [p for p in points if limit.of(p) is not None]
  under = [p for p in measured if limit.of(p) <= limit.most]
  return min(
    under,
    key=lambda p: (-p.top1, limit.of(p), p.cost.multiply_adds),
    default=None,
  )


def recommendation(points: Sequence[Point], limit: Limit) -> str:
  """The result of `deploy`, or why there is none, in one line."""
  chosen = deploy(points, limit)
  if chosen is not None:
    return (
      f"under {limit}: {describe(chosen.setting)}, "
      f"{100 * chosen.top1:.1f} % top-1, {_amount(chosen, limit)}"
    )
  measured = [p for p in points if limit.of(p) is not None]
  if not measured:
    return (
      f"under {limit}: the {limit.unit.quantity} was measured at no point; "
      "measure it, or limit something else"
    )
  closest = min(measured, key=limit.of)
  return (
    f"under {limit}: no point is; the nearest is {describe(closest.setting)} "
    f"with {_amount(closest, limit)}: allow as much, or evaluate larger "
    "patches or smaller images"
  )


def _amount(point, limit):
  return f"{three_digits(limit.of(point))} {limit.unit.name}"


def pareto(points: Sequence[Point], cost: Cost) -> tuple[int, ...]:
  """Indices of the Pareto front, from the cheapest to the dearest.

  One point beats another if it is at least as accurate and costs at most as
  much, and one of the two differs. Points whose cost was not measured are not
  on the front.
  """
  measured = [i for i, p in enumerate(points) if cost(p) is not None]
  order = sorted(measured, key=lambda i: (cost(points[i]), -points[i].top1))
  front, last = [], None
  for i in order:
    here = (cost(points[i]), points[i].top1)
    # Equal points stay beside each other: neither beats the other.
    if last is None or here[1] > last[1] or here == last:
      front.append(i)
      last = here
  return tuple(front)


def describe(setting: Setting) -> str:
  """ "patch 16 at 240 px", "patch 8x6 at 256 tokens"."""
  return f"patch {size_name(setting.patch_hw)} at {describe_at(setting)}"


def describe_at(setting: Setting) -> str:
  """ "240 px", "256 tokens", "own size"."""
  pixels = setting.budget is None and setting.image_hw is not None
  return f"{setting.at} px" if pixels else setting.at


def three_digits(value: float) -> str:
  """Three digits that count, more where whole numbers have more."""
  return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
