"""A command as one of several processes: its arguments, start and end.

JAX runs one program in all processes; each has a part of the devices. Only the
first prints and writes; what another has to say is an error.
"""

import contextlib
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, NoReturn

import jax

from flexivit_jax.checkpoints import atomic
from flexivit_jax.cli import errors, other_output
from flexivit_jax.cli.arguments import Parser
from flexivit_jax.core.errors import ConfigError, Fault
from flexivit_jax.devices import processes
from flexivit_jax.devices.processes import ALONE, Peers

NAMES = ("coordinator", "num_processes", "process_id")
SLURM = ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_NODELIST")

# JAX's own heartbeat notices later, so that ours can say it in a line.
LATER_S = 30

# In which a lost process is noticed whose connection ended, in seconds.
SOON_S = 2


class StartError(Fault):
  """The processes cannot find each other."""


def add_arguments(parser: Parser) -> None:
  """How the processes of a run find each other."""
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
  add(
    "--process_id",
    type=int,
    help="which of them this is, from 0, with --coordinator",
  )
  add(
    "--initialization_timeout",
    type=int,
    default=300,
    metavar="SECONDS",
    help="how long to wait for the other processes; default: 300",
  )
  add(
    "--heartbeat_timeout",
    type=int,
    default=100,
    metavar="SECONDS",
    help="a process without a sign of life for so long is lost, and all end; "
    "default: 100",
  )


def refuse(argv: Sequence[str]) -> None:
  """Refuses these arguments, for a command that is one process.

  Raises:
    ConfigError: naming the first.
  """
  names = ("distributed", *NAMES)
  for word in argv:
    name = word.partition("=")[0]
    if name in {f"--{x}" for x in names}:
      raise ConfigError(
        f"{name} is train.py's: this command is one process, with all devices "
        "of its machine; start it on one machine, without"
      )


def check(args) -> None:
  """Refuses arguments that do not belong together.

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
    missing = [name for name in SLURM if name not in os.environ]
    if missing:
      raise ConfigError(
        f"--distributed={args.distributed} without {missing[0]} in the "
        "environment: start with srun, or give --coordinator, --num_processes "
        "and --process_id"
      )


@contextlib.contextmanager
def started(args) -> Iterator[Peers]:
  """The processes of the run, connected until the end.

  Nothing may have touched a device before. An error inside ends this process
  at once, and the others with it.

  Raises:
    ConfigError: as `check`.
    StartError: they cannot find each other.
  """
  check(args)
  place = _place(args)
  if place is None or place.count == 1:
    yield ALONE
    return
  if place.index:
    reason = "its connection ended"
    other_output.be_quiet(
      place.index,
      processes.LOST.format(index=0, count=place.count, reason=reason),
    )
  peers = _tie(place, args)
  try:
    _start_jax(place, args, peers)
    yield peers
    peers.close()
    jax.distributed.shutdown()
  except BaseException as e:
    _end(e, peers)


class Place(NamedTuple):
  """Which process of how many, and where the first one is."""

  host: str
  port: int
  count: int
  index: int


def _place(args) -> Place | None:
  if args.coordinator is not None:
    host, _, port = args.coordinator.rpartition(":")
    return Place(host, int(port), args.num_processes, args.process_id)
  if args.distributed is None:
    return None
  return slurm_place(os.environ)


def slurm_place(environment: Mapping[str, str]) -> Place:
  """Of a process that srun started.

  The port is one of 4,096 by the job's number, so that jobs on one machine
  have different ones.
  """
  # A step may have fewer tasks than its job.
  count = environment.get("SLURM_STEP_NUM_TASKS", environment["SLURM_NTASKS"])
  # node[001-004,7],other and node1,other begin with node001 and node1.
  name, bracket, rest = re.match(
    r"([^,[]+)(\[?)([^],-]*)", environment["SLURM_STEP_NODELIST"]
  ).groups()
  return Place(
    f"{name}{rest if bracket else ''}",
    61_440 + int(environment["SLURM_JOB_ID"]) % 4096,
    int(count),
    int(environment["SLURM_PROCID"]),
  )


def _tie(place: Place, args) -> processes.Lifelines:
  """Connects to the other processes, before JAX does: it ends a process whose
  others are not there with a stack trace."""
  timeouts = args.initialization_timeout, args.heartbeat_timeout
  try:
    if place.index == 0:
      lines = processes.accept(place.port, place.count, *timeouts)
    else:
      lines = processes.connect(*place, *timeouts)
  except (OSError, ValueError) as e:
    raise StartError(str(e)) from e
  return processes.Lifelines(
    place.index,
    lines,
    place.count,
    heartbeat_s=args.heartbeat_timeout,
    end=_end_at_once,
  )


def _start_jax(place: Place, args, peers: Peers) -> None:
  # SIGTERM is ours: all save after the same step, and end.
  jax.config.update("jax_enable_preemption_service", False)
  port = processes.free_port() if place.index == 0 else None
  jax.distributed.initialize(
    coordinator_address=f"{place.host}:{peers.gather(port)[0]}",
    num_processes=place.count,
    process_id=place.index,
    cluster_detection_method="deactivate",
    initialization_timeout=args.initialization_timeout,
    heartbeat_timeout_seconds=args.heartbeat_timeout + LATER_S,
  )


def _end(error: BaseException, peers: processes.Lifelines) -> NoReturn:
  """Prints an error as `errors.run` does, tells the others, and ends: an
  orderly exit would wait for them, and they may wait in a collective."""

  def again():
    raise error

  if isinstance(error, jax.errors.JaxRuntimeError):
    # Where a collective failed as another process was lost, the thread that
    # watches for that says it in a line, and ends this process here.
    time.sleep(SOON_S)
  try:
    errors.run(again)
    status = 1
  except SystemExit as e:
    status = e.code if isinstance(e.code, int) else 1
  except BaseException:
    traceback.print_exc()
    status = 1
  sys.stderr.flush()
  peers.fail()
  os._exit(status)


def _end_at_once(text: str) -> NoReturn:
  # One write: another thread may print, and JAX may end the process.
  os.write(2, f"error: {text}\n".encode())
  atomic.remove_unfinished()
  os._exit(1)
