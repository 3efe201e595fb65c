"""Which layout and distribution to train with, and why."""

import dataclasses
from collections.abc import Sequence

from flexivit_jax.core.text import format_bytes
from flexivit_jax.run.plan.step_cost import Cost, Rates


@dataclasses.dataclass(frozen=True)
class Choice:
  """What to train with.

  Attributes:
    cost: None: nothing fits.
    reason: in a line.
  """

  cost: Cost | None
  reason: str


def choose(
  costs: Sequence[Cost], rates: Rates, *, kernel: str, memory: float | None
) -> Choice:
  """The quickest that is possible and fits, if nothing is sent while computing;
  of equals the one that sends least.

  Args:
    costs: of one workload.
    kernel: as in `Cost.memory`.
    memory: bytes of a device; None: any.
  """
  possible = [
    c
    for c in costs
    if c.refusal is None and c.distribution.attention is not None
  ]
  if not possible:
    return Choice(None, f"nothing works: {costs[0].layout}: {costs[0].refusal}")

  def needs(cost):
    return cost.memory(kernel).total

  fitting = [c for c in possible if memory is None or needs(c) <= memory]
  if not fitting:
    least = min(possible, key=needs)
    # Each alone, in what it would need.
    ways = {}
    if not least.work.remat:
      ways["--config.model.remat=true"] = least.memory(kernel, remat=True)
    if kernel == "dense":
      ways["--config.model.kernel=blockwise"] = least.memory("blockwise")
    ways = [
      f"{way} ({format_bytes(int(memory.total))})"
      for way, memory in ways.items()
      if memory.total < needs(least)
    ]
    ways += ["a smaller batch", "more devices"]
    needed, given = (format_bytes(int(x)) for x in (needs(least), memory))
    return Choice(
      None,
      f"does not fit: the least, {least.distribution.name} on {least.layout}, "
      f"needs {needed} of {given} with kernel {kernel}: take "
      f"{' or '.join(ways)}",
    )
  best = min(fitting, key=lambda c: (c.seconds(rates)[1], c.sent))
  return Choice(best, _reason(best, possible, fitting, rates))


def settings(cost: Cost) -> tuple[str, ...]:
  """Overrides of a config that train so."""
  data, seq = cost.layout
  return (f"mesh.data={data}", f"mesh.seq={seq}", *cost.distribution.settings)


def _reason(best: Cost, possible, fitting, rates) -> str:
  work, devices = best.work, best.layout.devices
  rows = work.rows // work.accumulate
  if best.layout.seq == 1:
    if devices == 1:
      return "one device"
    others = [c.sent for c in possible if c.layout.seq > 1]
    less = f": {_times(min(others), best.sent)}" if others else ""
    return (
      f"{rows} rows >= {devices} devices: data parallelism sends less{less}"
    )
  why = f"{rows} rows for {devices} devices"
  whole = [c for c in possible if c.layout.seq == 1]
  if whole:
    why = f"local on {whole[0].layout} does not fit"
  kind = type(best.distribution.attention)
  rivals = [c for c in fitting if type(c.distribution.attention) is not kind]
  if not rivals:
    return f"{why}: nothing else fits"
  rival = min(rivals, key=lambda c: c.seconds(rates)[1])
  return f"{why}: {_times(rival.sent, best.sent)} as {rival.distribution.name}"


def _times(other: float, own: float) -> str:
  return f"{format_bytes(int(own))} a step against {format_bytes(int(other))}"
