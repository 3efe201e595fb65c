"""The processes of a run: what one says to all."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from flexivit_jax.core.errors import Fault
from flexivit_jax.core.text import cut


class Peers(Protocol):
  """All processes of a run, as one of them sees them.

  Whatever one of them asks for, all have to ask for, in the same order.

  Attributes:
    index: of this process, 0 to below count.
    count: of the processes.
  """

  index: int
  count: int

  def gather(self, value: Any) -> list[Any]:
    """The value of each process, in order.

    Args:
      value: JSON.
    """

  def stop_signal(self, own: int | None) -> int | None:
    """The number of the signal after which all stop here; None: go on.

    The answer is the same in every process that has asked as often.

    Args:
      own: the signal that this process got; None: it got none.
    """


@dataclasses.dataclass(frozen=True)
class Alone:
  """One process."""

  index: int = 0
  count: int = 1

  def gather(self, value):
    return [value]

  def stop_signal(self, own):
    return own


ALONE = Alone()


class DisagreementError(Fault):
  """The processes of a run were started otherwise, or see other data."""


def check_same(peers: Peers, described: Mapping[str, Any]) -> None:
  """Refuses processes that describe themselves otherwise than the first.

  Args:
    described: name to JSON; in every process the same names are compared.

  Raises:
    DisagreementError: in every process, with the first name that differs.
  """
  if peers.count == 1:
    return
  first, *others = peers.gather(dict(described))
  for index, other in enumerate(others, start=1):
    for name in sorted(first.keys() | other.keys()):
      here, there = first.get(name), other.get(name)
      if here != there:
        raise DisagreementError(
          f"{name} is {cut(repr(here), 100)} in process 0 and "
          f"{cut(repr(there), 100)} in process {index}: start all processes "
          "with the same command, code and data"
        )


def digest(root: pathlib.Path) -> str:
  """SHA-256 of the Python files under a directory, in 16 digits."""
  total = hashlib.sha256()
  for path in sorted(root.rglob("*.py")):
    total.update(path.relative_to(root).as_posix().encode() + b"\0")
    total.update(hashlib.sha256(path.read_bytes()).digest())
  return total.hexdigest()[:16]


def describe_program(config: Mapping[str, Any]) -> dict[str, Any]:
  """What has to be the same in all processes: each value of the config, this
  package's code, and the versions of what computes.

  Args:
    config: dotted names to JSON.
  """
  versions = {
    f"the version of {name}": importlib.metadata.version(name)
    for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
  }
  values = {f"config.{name}": value for name, value in config.items()}
  code = digest(pathlib.Path(__file__).parents[1])
  return {**values, **versions, "the code of flexivit_jax": code}


# Beats in the time after which a process without one is lost.
BEATS = 5

# How long a process may take to tell of its own error, in seconds, after
# another has told of one: mostly it is the same.
GRACE_S = 5.0

# What a process says at its end.
CLOSING = "closing"

LOST = (
  "process {index} of {count} was lost ({reason}), so this one ends too; start "
  "all of them again, and the run goes on from its last checkpoint"
)
FAILED = (
  "process {index} of {count} ended with an error, which its own output says, "
  "so this one ends too"
)


class Line:
  """One connection: messages as lines of JSON."""

  def __init__(self, connection: socket.socket, timeout_s: float):
    connection.settimeout(timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    self._socket = connection
    self._file = connection.makefile("rb")
    self._sending = threading.Lock()

  def send(self, message: dict[str, Any]) -> None:
    """What cannot be sent is noticed where the other's beats are missed."""
    data = json.dumps(message).encode() + b"\n"
    try:
      with self._sending:
        self._socket.sendall(data)
    except OSError:
      return

  def receive(self) -> dict[str, Any]:
    """The next message; {} where the connection ended.

    Raises:
      TimeoutError: there was none for too long.
    """
    try:
      line = self._file.readline()
      return json.loads(line) if line.endswith(b"\n") else {}
    except TimeoutError:
      raise
    except (OSError, ValueError):
      return {}

  def close(self) -> None:
    # Closed alone, it would stay open for the thread that reads.
    try:
      self._socket.shutdown(socket.SHUT_RDWR)
    except OSError:
      return
    finally:
      self._socket.close()


class Lifelines:
  """The processes of a run, connected: `core.peers.Peers`.

  Threads send and receive, so a process that is stuck in a collective is
  ended all the same.

  Args:
    index: of this process.
    lines: to each other process, by its index; of all but the first process,
      to the first alone.
    count: of the processes.
    heartbeat_s: a process that is silent for so long is lost.
    end: called, once, with a line that says why this process has to end.
    grace_s: how long `end` waits for an error of this process's own.
  """

  def __init__(
    self,
    index: int,
    lines: dict[int, Line],
    count: int,
    *,
    heartbeat_s: float,
    end: Callable[[str], None],
    grace_s: float = GRACE_S,
  ):
    self.index, self.count = index, count
    self._lines = dict(lines)
    self._connected = set(lines)  # those whose line has not ended yet
    self._heartbeat_s = heartbeat_s
    self._end = end
    self._grace_s = grace_s
    self._changed = threading.Condition()
    self._closing = threading.Event()
    self._ending = False
    # Values by process; answers by number, of those that were asked for.
    self._values: dict[int, dict[int, Any]] = {}
    self._answers: dict[int, list[Any]] = {}
    self._asked = 0
    # The agreement on a stop: questions so far; whether this process announced
    # one, has heard of one, and has asked all where they are (the first alone,
    # which gets these places); and what was agreed, (question, signal).
    self._questions = 0
    self._announced = self._noticed = self._asked_all = False
    self._places: dict[int, int] = {}
    self._stop: tuple[int, int] | None = None
    for other, line in lines.items():
      self._start(self._read, other, line)
    self._start(self._beat)

  def _start(self, function, *arguments):
    threading.Thread(target=function, args=arguments, daemon=True).start()

  # What a process asks for.

  def gather(self, value: Any) -> list[Any]:
    """As `Peers.gather`; for one thread."""
    number, self._asked = self._asked, self._asked + 1
    message = {"value": value, "number": number, "from": self.index}
    if self.index == 0:
      self._handle(0, json.loads(json.dumps(message)))
    else:
      self._lines[0].send(message)
    with self._changed:
      self._changed.wait_for(lambda: number in self._answers)
      return self._answers.pop(number)

  def stop_signal(self, own: int | None) -> int | None:
    """As `Peers.stop_signal`; for one thread.

    A signal is announced to all; each says how far it is, and waits. All stop
    at the next question of the one that is furthest.
    """
    with self._changed:
      self._questions += 1
      announce = own is not None and not self._announced
      self._announced |= announce
    if announce:
      self._tell_first({"stop": own})
    with self._changed:
      if self._announced or self._noticed:
        self._changed.wait_for(lambda: self._stop is not None)
      if self._stop is None or self._questions < self._stop[0]:
        return None
      return self._stop[1]

  def close(self) -> None:
    """Waits for the others, and ends the connections."""
    self.gather(CLOSING)
    self._closing.set()
    for line in self._lines.values():
      line.close()

  def fail(self) -> None:
    """Tells the others of an error, and waits a little until they have ended:
    JAX ends those that outlive the first process with a stack trace."""
    self._closing.set()
    for line in self._lines.values():
      line.send({"failed": self.index})
    deadline = time.monotonic() + self._grace_s + 1
    while self.index == 0 and self._connected and time.monotonic() < deadline:
      time.sleep(0.02)
    for line in self._lines.values():
      line.close()

  # What its threads do.

  def _beat(self):
    while not self._closing.wait(self._heartbeat_s / BEATS):
      for line in self._lines.values():
        line.send({"beat": self.index})

  def _read(self, other, line):
    try:
      while message := line.receive():
        self._handle(other, message)
      reason = "its connection ended"
    except TimeoutError:
      reason = f"no sign of life for {self._heartbeat_s:g} s"
    if self._closing.is_set():
      self._connected.discard(other)
      return
    self._lose(
      {"lost": other, "reason": reason},
      LOST.format(index=other, count=self.count, reason=reason),
    )

  def _handle(self, other, message):
    match message:
      case {"value": value, "number": number}:
        self._take(other, number, value)
      case {"values": values, "number": number}:
        self._answer(number, values)
      case {"stop": signal}:
        self._notice(signal)
      case {"notice": signal}:
        self._report(signal)
      case {"at": place, "signal": signal}:
        self._place(other, place, signal)
      case {"stop_at": place, "signal": signal}:
        with self._changed:
          self._stop = place, signal
          self._changed.notify_all()
      case {"lost": index, "reason": reason}:
        if not self._closing.is_set():
          self._lose(
            message, LOST.format(index=index, count=self.count, reason=reason)
          )
      case {"failed": index}:
        if not self._closing.wait(self._grace_s):
          self._lose(message, FAILED.format(index=index, count=self.count))

  def _tell_first(self, message):
    if self.index == 0:
      self._handle(0, message)
    else:
      self._lines[0].send(message)

  def _tell_all(self, message):
    for line in self._lines.values():
      line.send(message)
    self._handle(0, message)

  def _take(self, other, number, value):
    with self._changed:
      values = self._values.setdefault(number, {})
      values[other] = value
      complete = len(values) == self.count
      if complete:
        del self._values[number]
    if complete:
      values = [values[i] for i in range(self.count)]
      if values == [CLOSING] * self.count:
        self._closing.set()  # before the others are gone
      self._tell_all({"values": values, "number": number})

  def _answer(self, number, values):
    with self._changed:
      if values == [CLOSING] * self.count:
        self._closing.set()
      self._answers[number] = values
      self._changed.notify_all()

  def _notice(self, signal):
    with self._changed:
      if self._asked_all:
        return  # a second process was told to stop
      self._asked_all = True
    self._tell_all({"notice": signal})

  def _report(self, signal):
    with self._changed:
      self._noticed = True
      place = self._questions
    self._tell_first({"at": place, "signal": signal})

  def _place(self, other, place, signal):
    with self._changed:
      self._places[other] = place
      complete = len(self._places) == self.count
      furthest = max(self._places.values())
    if complete:
      self._tell_all({"stop_at": furthest + 1, "signal": signal})

  def _lose(self, message, text):
    with self._changed:
      if self._ending:
        return
      self._ending = True
    if self.index == 0:  # the others are connected to it alone
      for other, line in self._lines.items():
        if other not in (message.get("lost"), message.get("failed")):
          line.send(message)
      time.sleep(0.2 * (len(self._lines) > 1))
    self._end(text)


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
