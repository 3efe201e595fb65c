"""Arguments of a command that is one of several processes, and its end.

JAX runs one program in all processes; each has a part of the devices. Only the
first prints and writes; what another has to say is an error.
"""

import contextlib
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import NoReturn

from flexivit_jax.cli import errors
from flexivit_jax.cli.arguments import Parser
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.devices import launch
from flexivit_jax.devices.processes import Processes

# How long the first process waits after an error, in seconds: the runtime ends
# the others with it, which mostly are about to say the same.
GRACE_S = 3.0

NAMES = ("coordinator", "num_processes", "process_id")


def add_arguments(parser: Parser) -> None:
  """Add the arguments that say where the processes of a run are."""
  add = parser.add_argument
  add(
    "--distributed",
    choices=("slurm",),
    help="one process of a SLURM job step: address, number of processes and "
    "process are taken from its environment (docs/many_machines.md)",
  )
  add(
    "--coordinator",
    metavar="HOST:PORT",
    help="one process of several, the same in all: address of process 0, with "
    "a free port",
  )
  add("--num_processes", type=int, help="of the run, with --coordinator")
  add("--process_id", type=int, help="from 0, with --coordinator")
  for name, seconds, text in (
    ("initialization", 300, "how long to wait for the other processes"),
    ("heartbeat", 60, "all end after so long without a sign of life of one"),
  ):
    add(
      f"--{name}_timeout",
      type=int,
      default=seconds,
      metavar="SECONDS",
      help=f"{text}; default: {seconds}",
    )


def refuse(argv: Sequence[str]) -> None:
  """Refuse these arguments, for a command that is one process."""
  names = ("distributed", *NAMES)
  for word in argv:
    name = word.partition("=")[0]
    if name in {f"--{x}" for x in names}:
      raise ConfigError(
        f"{name} is train.py's: this command is one process, with all devices "
        "of its machine; start it on one machine, without"
      )


def check(args) -> None:
  """Refuse arguments that do not belong together.

  Raises:
    ConfigError: with those that would.
  """
  given = [name for name in NAMES if getattr(args, name) is not None]
  if args.distributed and given:
    raise ConfigError(
      f"--distributed={args.distributed} and --{given[0]}: give one or the "
      "other"
    )
  if given and len(given) < len(NAMES):
    missing = [f"--{name}" for name in NAMES if name not in given]
    raise ConfigError(
      f"--{given[0]} without {' and '.join(missing)}: a process of several "
      "needs all three"
    )
  for name, low in (("initialization_timeout", 1), ("heartbeat_timeout", 2)):
    if getattr(args, name) < low:
      raise ConfigError(f"--{name} {getattr(args, name)}: give {low} or more")
  if given:
    match = re.fullmatch(r"(.+):(\d{1,5})", args.coordinator)
    if match is None or not 0 < int(match[2]) < 2**16:
      raise ConfigError(
        f"--coordinator {args.coordinator}: give HOST:PORT, 10.0.0.1:9876 say"
      )
    if args.num_processes < 1:
      raise ConfigError(f"--num_processes {args.num_processes}: give 1 or more")
    if not 0 <= args.process_id < args.num_processes:
      raise ConfigError(
        f"--process_id {args.process_id} of --num_processes "
        f"{args.num_processes}: give 0 to {args.num_processes - 1}"
      )
  if args.distributed:
    missing = [name for name in launch.SLURM if name not in os.environ]
    if missing:
      raise ConfigError(
        f"--distributed={args.distributed} without {missing[0]} in the "
        "environment: start with srun, or give --coordinator, --num_processes "
        "and --process_id"
      )


@contextlib.contextmanager
def started(args) -> Iterator[Processes]:
  """Connect the processes of the run until the end.

  Nothing may have touched a device before. An error inside ends this process
  at once, and the runtime ends the others.

  Raises:
    ConfigError: as `check`.
    StartError: they cannot find each other.
  """
  check(args)
  processes = launch.start(
    _place(args),
    initialization_s=args.initialization_timeout,
    heartbeat_s=args.heartbeat_timeout,
  )
  if processes.count == 1:
    yield processes
    return
  if processes.index:
    sys.stdout = open(os.devnull, "w")
  try:
    yield processes
    launch.stop()
  except BaseException as e:
    _end(e, processes.index)


def _place(args):
  if args.distributed is not None:
    return launch.slurm_place(os.environ)
  if args.coordinator is None:
    return None
  host, _, port = args.coordinator.rpartition(":")
  return launch.Place(host, int(port), args.num_processes, args.process_id)


def _end(error: BaseException, index: int) -> NoReturn:
  """Print an error as `errors.run` does, and end.

  An orderly exit would wait for the others, and they may wait in a collective.
  """

  def again():
    raise error

  status = 1
  try:
    errors.run(again)
  except SystemExit as e:
    status = e.code if isinstance(e.code, int) else 1
  except BaseException:
    traceback.print_exc()
  sys.stderr.flush()
  if index == 0:
    time.sleep(GRACE_S)
  os._exit(status)
