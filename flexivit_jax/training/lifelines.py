"""Connections between the processes of a run, so that none outlives another.

JAX notices a lost process too, but while a collective waits it ends the others
with a stack trace, or after its own timeout alone. And what the processes agree
on here (a step to stop after, a name that is in all configs) costs the devices
nothing: it is text over TCP, from each process to the first and back.
"""

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

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
