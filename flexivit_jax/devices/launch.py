"""Start and end of the processes of a run, through `jax.distributed`."""

import os
import re
import socket
import time
from collections.abc import Mapping
from typing import NamedTuple

import jax

from flexivit_jax.core.errors import Fault
from flexivit_jax.devices.processes import ALONE, Connected, Processes

SLURM = ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_NODELIST")

# Between two attempts to reach process 0, in seconds.
RETRY_S = 0.5


class StartError(Fault):
  """Processes that cannot find each other."""


class Place(NamedTuple):
  """One process of several, and the address of process 0."""

  host: str
  port: int
  count: int
  index: int


def slurm_place(environment: Mapping[str, str]) -> Place:
  """The place of a process that srun started.

  The port is one of 4,096 by the job's number, so that jobs on one machine
  have different ones.

  Args:
    environment: with the names of `SLURM`.
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


def start(
  place: Place | None, *, initialization_s: int, heartbeat_s: int
) -> Processes:
  """Connect the processes of a run; nothing may have touched a device before.

  Args:
    place: of this process; None: there is no other.
    initialization_s: how long to wait for the others. The runtime ends process
      0 with a stack trace where one of them does not come.
    heartbeat_s: the runtime ends all after so long without a sign of life of
      one of them.

  Raises:
    StartError: process 0 cannot be reached, or its port is taken.
  """
  if place is None or place.count == 1:
    return ALONE
  if place.index == 0:
    _check_port(place)
  else:
    _wait_for_first(place, initialization_s)
  # SIGTERM is for the training loop: all save after the same step, and end.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
      coordinator_address=f"{place.host}:{place.port}",
      num_processes=place.count,
      process_id=place.index,
      cluster_detection_method="deactivate",
      initialization_timeout=initialization_s,
      heartbeat_timeout_seconds=heartbeat_s,
    )
  except jax.errors.JaxRuntimeError as e:
    raise StartError(f"process {place.index} of {place.count}: {e}") from e
  return Connected()


def stop() -> None:
  """Wait for all processes, and end their connections."""
  jax.distributed.shutdown()


def _check_port(place):
  # The runtime would share the port with another program.
  try:
    socket.create_server(("", place.port)).close()
  except OSError as e:
    raise StartError(
      f"port {place.port} of this machine cannot be used "
      f"({os.strerror(e.errno)}): give all processes another one"
    ) from e


def _wait_for_first(place, seconds):
  # The runtime would end this process with a stack trace.
  deadline = time.monotonic() + seconds
  while (left := deadline - time.monotonic()) > 0:
    try:
      socket.create_connection((place.host, place.port), left).close()
      return
    except OSError as e:
      reason = e.strerror or e
    time.sleep(min(RETRY_S, left))
  raise StartError(
    f"no process 0 at {place.host}:{place.port} within {seconds} s ({reason}): "
    "start it, or correct the address"
  )
