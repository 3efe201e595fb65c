"""Plans a training on many devices: memory, traffic, arithmetic and time.

  flexivit plan --config configs/pit_in1k.py:smoke --devices 8
  flexivit plan --config FILE --mesh data=2,seq=4 \\
      --memory 80GiB --json plan.json

A row for each mesh and each way to share the attention, by formulas alone:
docs/planner.md. Nothing is compiled, and the data is opened only where the
config does not say how large images are, or how many classes.
"""

import json
import math
import pathlib
import re

from flexivit_jax.cli import arguments
from flexivit_jax.cli import main as main_lib
from flexivit_jax.config import build
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.run.plan import table, workload
from flexivit_jax.run.plan.layout import Layout, layouts, parse_layout
from flexivit_jax.run.plan.step_cost import Rates

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
  args, overrides = arguments.parse(parser, argv)
  wanted = _layouts(args)
  memory, rates = _memory(args), _rates(args)
  _check_file(args)
  if args.length is not None and args.length < 1:
    raise ConfigError(f"--length {args.length}: give at least 1")
  experiment = build.load(args.config, overrides)
  planned = workload.read(experiment, args.length)
  costs = table.all_costs(planned, wanted)
  chosen = table.choose(costs, rates, kernel=planned.kernel_name, memory=memory)
  for line in planned.describe(costs[0].work):
    print(line)
  print(table.table(costs, rates, memory))
  for line in table.refusals(costs):
    print(line)
  for line in table.describe_choice(chosen, planned.kernel_name):
    print(line, flush=True)
  if args.json:
    found = table.to_json(planned, costs, chosen, rates, memory)
    pathlib.Path(args.json).write_text(json.dumps(found, indent=2) + "\n")
  if chosen.cost is None:
    raise ConfigError(chosen.reason)


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


def _check_file(args) -> None:
  if args.json is None:
    return
  path = pathlib.Path(args.json)
  if path.is_dir() or not path.parent.is_dir():
    what = "a directory" if path.is_dir() else "in no directory that exists"
    raise ConfigError(f"--json {args.json} is {what}: give a file")


if __name__ == "__main__":
  main_lib.run_renamed("plan")
