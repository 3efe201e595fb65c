"""Plans a training on many devices: memory, traffic, arithmetic and time.

  flexivit plan --config configs/pit_in1k.py:smoke --devices 8
  flexivit plan --config FILE --mesh data=2,seq=4 \\
      --memory 80GiB --json plan.json --figure longest.png

A row for each mesh and each way to share the attention, by formulas alone:
docs/planner.md. Nothing is compiled, except by --check, and the data is opened
only where the config does not say how large images are, or how many classes.
"""

import dataclasses
import json
import math
import pathlib
import re

from flexivit_jax.cli import arguments, plan_check, plan_workload
from flexivit_jax.cli import main as main_lib
from flexivit_jax.config import build
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.core.text import align, format_bytes
from flexivit_jax.evaluation.report.figures import style
from flexivit_jax.run.plan import longest, longest_figure
from flexivit_jax.run.plan import table as table_lib
from flexivit_jax.run.plan.step_cost import KERNELS, Cost, Rates
from flexivit_jax.run.plan.ways import (
  LOCAL,
  SHARED,
  SHARED_UNDER_REMAT,
  QueryShardedActivations,
)
from flexivit_jax.run.plan.workload import Layout, layouts, parse_layout

UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
UNITS |= {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
MOST_DEVICES = 2**20


def main(argv=None):
  parser = arguments.parser(__doc__, "plan")
  arguments.add_config(parser)
  add = parser.add_argument
  add("--devices", type=int, help="how many; every mesh of them is planned")
  add("--mesh", help="data=2,seq=4: this mesh alone")
  add("--memory", help="80GiB: of a device; says what fits")
  add("--length", type=int, help="tokens of a row, instead of the config's")
  add(
    "--flops",
    type=float,
    default=Rates().flops,
    help="operations per second of a device, in the model's type; default: "
    "%(default)g",
  )
  add(
    "--bandwidth",
    type=float,
    default=Rates().bandwidth,
    help="bytes per second that a device sends; default: %(default)g, NVLink",
  )
  add("--json", metavar="FILE", help="write all numbers")
  add(
    "--figure",
    metavar="FILE",
    help="draw the longest row against devices, for --memory; PNG or SVG",
  )
  add(
    "--check",
    action="store_true",
    help="compile the step that is recommended, on simulated devices if these "
    "are too few, and compare",
  )
  args, overrides = arguments.parse(parser, argv)
  wanted = _layouts(args)
  memory, rates = _memory(args), _rates(args)
  _check_files(args)
  if args.length is not None and args.length < 1:
    raise ConfigError(f"--length {args.length}: give at least 1")
  if args.check:
    if args.length is not None:
      raise ConfigError("--check compiles the config: leave --length out")
    plan_check.make_devices(wanted[0].devices)
  experiment = build.load(args.config, overrides)
  planned = plan_workload.read(experiment, args.length)
  costs = all_costs(planned, wanted)
  chosen = table_lib.choose(
    costs, rates, kernel=planned.kernel_name, memory=memory
  )
  for line in planned.describe(costs[0].work):
    print(line)
  print(table(costs, rates, memory))
  for line in refusals(costs):
    print(line)
  for line in describe_choice(chosen, planned.kernel_name):
    print(line, flush=True)
  if args.json:
    found = to_json(planned, costs, chosen, rates, memory)
    pathlib.Path(args.json).write_text(json.dumps(found, indent=2) + "\n")
  if args.figure:
    figure = draw(planned, wanted[0].devices, memory)
    as_file = style.svg if args.figure.endswith(".svg") else style.png
    pathlib.Path(args.figure).write_bytes(as_file(figure))
  if chosen.cost is None:
    raise ConfigError(chosen.reason)
  if args.check:
    for line in plan_check.check(args.config, overrides, planned, chosen.cost):
      print(line, flush=True)


def all_costs(
  planned: plan_workload.Planned, wanted: tuple[Layout, ...]
) -> list[Cost]:
  """Of each mesh, in every way that makes sense on it."""
  costs = []
  for layout in wanted:
    work = planned.workload(layout, "gpu")
    shared = SHARED_UNDER_REMAT if work.remat else SHARED
    ways = (LOCAL,) if layout.seq == 1 else shared
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
    star = "" if cost.distribution.attention else " *"
    row = (
      "{}x{}".format(*cost.layout),
      f"{cost.distribution.name}{star}",
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
  if any(not c.distribution.attention and not c.refusal for c in costs):
    lines.append("* for comparison; this project has no such training.")
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
      names.append(cost.distribution.name)
  for (layout, reason), names in reasons.items():
    every = len(names) == sum(c.layout == layout for c in costs)
    which = "" if every else f" {' and '.join(names)}"
    yield f"not {layout}{which}: {reason}"


def describe_choice(chosen: table_lib.Choice, kernel: str):
  """Lines: which to take, why, and what its memory is made of."""
  cost = chosen.cost
  if cost is None:
    return
  yield f"take {cost.layout}, {cost.distribution.name}: {chosen.reason}"
  yield " ".join(f"--config.{x}" for x in table_lib.settings(cost))
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
      "distribution": cost.distribution.name,
      "implemented": cost.distribution.attention is not None,
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
      "break_even_length": cost.break_even_length(rates),
    }

  work = costs[0].work
  best = chosen.cost
  return {
    "rows": work.rows,
    "length": work.length,
    "kernel": planned.kernel_name,
    "remat": work.remat,
    "parameters": work.weights.numbers + work.table.numbers,
    "flops_per_s": rates.flops,
    "bytes_per_s": rates.bandwidth,
    "memory": memory,
    "plans": [of_cost(c) for c in costs],
    "choice": None if best is None else of_cost(best),
    "reason": chosen.reason,
  }


def draw(planned: plan_workload.Planned, devices: int, memory: float):
  """The longest rows of one to so many devices."""
  work = planned.workload(Layout(1, 1), "gpu")
  powers = [2**i for i in range(devices.bit_length()) if 2**i <= devices]

  def line(distribution, counts, kernel):
    found = (
      (n, longest.longest(work, distribution, n, memory=memory, kernel=kernel))
      for n in counts
    )
    return [(n, length) for n, length in found if length is not None]

  lines = {}
  shared = SHARED_UNDER_REMAT if work.remat else SHARED
  # As many as there are colours.
  for way in (LOCAL, *shared):
    if way.attention is None or way == QueryShardedActivations(keep=False):
      continue
    # Heads are rarely a power of two.
    counts = sorted({*powers, *_divisors(work.size.num_heads, devices)})
    counts = counts if way.name == "ulysses" else powers
    if points := line(way, counts, "blockwise"):
      lines[way.name] = points
  reference = "local, kernel dense", line(LOCAL, powers, "dense")
  size = work.size
  title = (
    f"width {size.width}, depth {size.depth}, {size.num_heads} heads, "
    f"{'remat, ' if work.remat else ''}{format_bytes(int(memory))} a device"
  )
  marks = {f"this config, {work.length:,}": work.length}
  return longest_figure.draw_longest(lines, reference, title, marks, powers)


def _divisors(number: int, most: int) -> list[int]:
  return [n for n in range(1, min(number, most) + 1) if number % n == 0]


def _layouts(args) -> tuple[Layout, ...]:
  if args.mesh is not None:
    with config_errors_at("--mesh"):
      mesh = parse_layout(args.mesh)
    if args.devices not in (None, mesh.devices):
      raise ConfigError(
        f"--mesh {args.mesh} is of {mesh.devices} devices, and --devices is "
        f"{args.devices}: leave one of them out"
      )
    return (mesh,)
  if args.devices is None:
    raise ConfigError("give --devices, 8 say, or --mesh, data=2,seq=4 say")
  if not 1 <= args.devices <= MOST_DEVICES:
    raise ConfigError(f"--devices {args.devices}: give 1 to {MOST_DEVICES}")
  return layouts(args.devices)


def _memory(args) -> float | None:
  if args.memory is None:
    if args.figure is not None:
      raise ConfigError("--figure needs --memory, 80GiB say")
    return None
  found = re.fullmatch(r"(\d+\.?\d*) ?([KMGT]i?B|)", args.memory)
  if not found or not float(found[1]):
    raise ConfigError(f"--memory {args.memory!r}: give 80GiB say")
  return float(found[1]) * UNITS[found[2]]


def _rates(args) -> Rates:
  for name in ("flops", "bandwidth"):
    if not 0 < getattr(args, name) < math.inf:
      raise ConfigError(
        f"--{name} {getattr(args, name):g}: give a number above 0, "
        f"{getattr(Rates(), name):g} say"
      )
  return Rates(args.flops, args.bandwidth)


def _check_files(args) -> None:
  for name in ("json", "figure"):
    given = getattr(args, name)
    if given is None:
      continue
    path = pathlib.Path(given)
    if name == "figure" and path.suffix not in (".png", ".svg"):
      raise ConfigError(f"--figure {given}: give a name with .png or .svg")
    if path.is_dir() or not path.parent.is_dir():
      what = "a directory" if path.is_dir() else "in no directory that exists"
      raise ConfigError(f"--{name} {given} is {what}: give a file")


if __name__ == "__main__":
  main_lib.run_renamed("plan")
