"""The table of layouts and distributions, and the one to train with."""

import dataclasses
from collections.abc import Sequence

from flexivit_jax.attention.distribution import name_of
from flexivit_jax.attention.local import Local
from flexivit_jax.attention.query_sharded import QuerySharded
from flexivit_jax.attention.ring import Ring
from flexivit_jax.attention.ulysses import Ulysses
from flexivit_jax.core.text import align, format_bytes
from flexivit_jax.run.plan.layout import Layout
from flexivit_jax.run.plan.step_cost import KERNELS, Cost, Rates
from flexivit_jax.run.plan.workload import Planned


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
  possible = [c for c in costs if c.refusal is None]
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
      f"does not fit: the least, {least.name} on {least.layout}, "
      f"needs {needed} of {given} with kernel {kernel}: take "
      f"{' or '.join(ways)}",
    )
  best = min(fitting, key=lambda c: (c.seconds(rates)[1], c.sent))
  return Choice(best, _reason(best, possible, fitting, rates))


def settings(cost: Cost) -> tuple[str, ...]:
  """Overrides of a config that train so."""
  data, seq = cost.layout
  name = f"model.distribution={name_of(cost.distribution)}"
  found = (f"mesh.data={data}", f"mesh.seq={seq}", name)
  keeps = getattr(cost.distribution, "keep", True)
  return found if keeps else (*found, "model.distribution.keep=false")


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
  kind = type(best.distribution)
  rivals = [c for c in fitting if type(c.distribution) is not kind]
  if not rivals:
    return f"{why}: nothing else fits"
  rival = min(rivals, key=lambda c: c.seconds(rates)[1])
  return f"{why}: {_times(rival.sent, best.sent)} as {rival.name}"


def _times(other: float, own: float) -> str:
  return f"{format_bytes(int(own))} a step against {format_bytes(int(other))}"


def all_costs(planned: Planned, wanted: tuple[Layout, ...]) -> list[Cost]:
  """Of each mesh, in every way that makes sense on it."""
  costs = []
  for layout in wanted:
    work = planned.workload(layout, "gpu")
    again = (QuerySharded(keep=False),) if work.remat else ()
    shared = (QuerySharded(), *again, Ring(), Ulysses())
    ways = (Local(),) if layout.seq == 1 else shared
    costs += [Cost(work, layout, way) for way in ways]
  return costs


def table(costs: list[Cost], rates: Rates, memory: float | None) -> str:
  """A row for each that can be."""
  head = ("mesh", "attention", *KERNELS, "forward", "backward", "step")
  rows = [(*head, "TFLOPs", "time") + (("fits",) if memory else ())]
  for cost in costs:
    if cost.refusal is not None:
      continue
    needed = {kernel: cost.memory(kernel).total for kernel in KERNELS}
    row = (
      "{}x{}".format(*cost.layout),
      cost.name,
      *map(format_bytes, map(int, needed.values())),
      *map(_sent, (cost.sent_forward, cost.sent_backward, cost.sent)),
      f"{cost.flops / 1e12:.3g}",
      _time(*cost.seconds(rates)),
    )
    if memory:
      fitting = [name for name, bytes_ in needed.items() if bytes_ <= memory]
      row += ("both" if len(fitting) == 2 else "".join(fitting) or "-",)
    rows.append(row)
  lines = [align(rows, left=2)] if len(rows) > 1 else []
  lines += [
    "mesh: data x seq. Of each device: memory with either kernel; bytes sent "
    "for a block, forward and",
    "backward, and for a step, gradients included; operations; time if sending "
    "hides behind computing",
    f"to if it never does, at {rates.flops:g} operations and "
    f"{rates.bandwidth:g} bytes a second.",
  ]
  return "\n".join(lines)


def _time(least: float, most: float) -> str:
  """ "3.2 to 5 us", in the unit that fits the longer one."""
  units = {1: "s", 1e-3: "ms", 1e-6: "us"}
  unit, name = next(
    ((u, n) for u, n in units.items() if most >= u), (1e-6, "us")
  )
  return f"{least / unit:.3g} to {most / unit:.3g} {name}"


def _sent(count: float) -> str:
  return format_bytes(int(count)) if count else "0"


def refusals(costs: list[Cost]):
  """Lines: what cannot be, and why; one for all ways of a mesh alike."""
  reasons: dict[tuple[Layout, str], list[str]] = {}
  for cost in costs:
    if cost.refusal is not None:
      names = reasons.setdefault((cost.layout, cost.refusal), [])
      names.append(cost.name)
  for (layout, reason), names in reasons.items():
    every = len(names) == sum(c.layout == layout for c in costs)
    which = "" if every else f" {' and '.join(names)}"
    yield f"not {layout}{which}: {reason}"


def describe_choice(chosen: Choice, kernel: str):
  """Lines: which to take, why, and what its memory is made of."""
  cost = chosen.cost
  if cost is None:
    return
  yield f"take {cost.layout}, {cost.name}: {chosen.reason}"
  yield " ".join(f"--config.{x}" for x in settings(cost))
  memory = cost.memory(kernel)
  parts = dataclasses.asdict(memory).items()
  yield f"memory with kernel {kernel}: " + ", ".join(
    f"{name} {format_bytes(int(x))}" for name, x in parts
  )
  without, with_ = (
    format_bytes(int(cost.memory(kernel, remat=remat).total))
    for remat in (False, True)
  )
  yield f"in all {without} without remat, {with_} with it"


def to_json(planned, costs, chosen, rates, memory) -> dict:
  """All numbers; bytes, operations, seconds and tokens."""

  def of_cost(cost):
    found = {
      "data": cost.layout.data,
      "seq": cost.layout.seq,
      "distribution": cost.name,
    }
    if cost.refusal is not None:
      return found | {"refusal": cost.refusal}
    least, most = cost.seconds(rates)
    return found | {
      "memory": {
        kernel: {
          remat: dataclasses.asdict(cost.memory(kernel, remat=remat == "remat"))
          for remat in ("no_remat", "remat")
        }
        for kernel in KERNELS
      },
      "sent_forward": cost.sent_forward,
      "sent_backward": cost.sent_backward,
      "sent_gradients": cost.sent_gradients,
      "sent": cost.sent,
      "flops": cost.flops,
      "seconds": [least, most],
    }

  work = costs[0].work
  best = chosen.cost
  return {
    "rows": work.rows,
    "length": work.length,
    "kernel": planned.kernel_name,
    "remat": work.remat,
    "parameters": work.weights.numbers,
    "flops_per_s": rates.flops,
    "bytes_per_s": rates.bandwidth,
    "memory": memory,
    "plans": [of_cost(c) for c in costs],
    "choice": None if best is None else of_cost(best),
    "reason": chosen.reason,
  }
