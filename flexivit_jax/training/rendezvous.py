"""How the processes of a run find each other: all come to the first."""

import os
import socket
import time

from flexivit_jax.training.lifelines import Line

# Between two attempts to reach the first process, in seconds.
RETRY_S = 0.5


def accept(
  port: int, count: int, timeout_s: float, heartbeat_s: float
) -> dict[int, Line]:
  """Lines from the first process to all others.

  Args:
    port: of this machine.
    count: of processes, this one included.
    timeout_s: for all of them to come.
    heartbeat_s: a line that is silent for so long is cut.

  Raises:
    OSError: the port is taken, or not all came in time.
  """
  try:
    server = socket.create_server(("", port))
  except OSError as e:
    raise OSError(
      f"port {port} of this machine cannot be used ({os.strerror(e.errno)}): "
      "give another in --coordinator to all processes"
    ) from e
  lines, deadline = {}, time.monotonic() + timeout_s
  with server:
    while len(lines) < count - 1:
      server.settimeout(max(0.01, deadline - time.monotonic()))
      try:
        connection, _ = server.accept()
      except TimeoutError:
        missing = sorted(set(range(1, count)) - set(lines))
        for line in lines.values():
          line.send({"refused": f"process 0 has not seen {_listed(missing)}"})
        raise OSError(
          f"{_listed(missing)} of {count} did not come to port {port} within "
          f"{timeout_s:g} s: start all with the same --coordinator, or raise "
          "--initialization_timeout"
        ) from None
      _welcome(Line(connection, heartbeat_s), lines, count)
    for line in lines.values():
      line.send({"welcome": 0})
  return lines


def _welcome(line, lines, count):
  """Takes a process that belongs here; other programs knock too."""
  try:
    hello = line.receive()
  except TimeoutError:
    hello = {}
  index, wanted = hello.get("process"), hello.get("count")
  if not isinstance(index, int):
    line.close()
  elif wanted != count:
    line.send(
      {"refused": f"process 0 has --num_processes {count}, this one {wanted}"}
    )
  elif index in lines or not 0 < index < count:
    line.send({"refused": f"another one is --process_id {index} already"})
  else:
    lines[index] = line


def connect(
  host: str,
  port: int,
  count: int,
  index: int,
  timeout_s: float,
  heartbeat_s: float,
) -> dict[int, Line]:
  """The line from this process to the first, which may still have to start.

  Raises:
    OSError: nobody answers there in time, or this process is refused.
  """
  deadline = time.monotonic() + timeout_s
  while True:
    left = deadline - time.monotonic()
    try:
      connection = socket.create_connection((host, port), max(left, 0.01))
      break
    except OSError as e:
      if left <= RETRY_S:
        raise OSError(
          f"no process 0 at {host}:{port} within {timeout_s:g} s "
          f"({e.strerror or e}): give its address as --coordinator, or raise "
          "--initialization_timeout"
        ) from e
    time.sleep(RETRY_S)
  line = Line(connection, heartbeat_s)
  line.send({"process": index, "count": count})
  connection.settimeout(max(1.0, deadline - time.monotonic()) + 1)
  try:
    answer = line.receive()
  except TimeoutError:
    answer = {"refused": f"process 0 has not answered for {timeout_s:g} s"}
  if "welcome" not in answer:
    reason = answer.get("refused", "process 0 has hung up")
    raise OSError(
      f"{host}:{port}: {reason}: start all processes with the same "
      "--coordinator and --num_processes, each with its own --process_id"
    )
  connection.settimeout(heartbeat_s)
  return {0: line}


def free_port() -> int:
  """One of this machine."""
  with socket.create_server(("", 0)) as server:
    return server.getsockname()[1]


def _listed(indices):
  plural = "es" if len(indices) > 1 else ""
  return f"process{plural} {', '.join(map(str, indices))}"
