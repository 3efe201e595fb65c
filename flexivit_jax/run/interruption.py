"""Signals that ask a run to end: heard at once, obeyed between two steps."""

import contextlib
import signal

from flexivit_jax.devices.processes import Processes


class Interrupted(Exception):
  """Raised where a run that was asked to end need not go on."""


class Interruption:
  """While entered, the first SIGTERM, SIGINT or SIGHUP is only remembered.

  Saving in a signal handler would catch the state between two steps. A second
  signal, of whichever kind, ends the process at once. SIGHUP that is ignored,
  as under nohup, stays so.

  Attributes:
    signal: the one that came, or None.
  """

  SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

  def __init__(self):
    self.signal: signal.Signals | None = None
    self._raises = False

  def __enter__(self) -> "Interruption":
    self._before = {
      number: signal.signal(number, self._remember)
      for number in self.SIGNALS
      if signal.getsignal(number) != signal.SIG_IGN
    }
    return self

  def __exit__(self, *_):
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _remember(self, number, frame):
    del frame
    self.signal = signal.Signals(number)
    # The system's own handler: it ends a process that is stuck in a compiled
    # function, where none of Python's would run.
    for each in self._before:
      signal.signal(each, signal.SIG_DFL)
    if self._raises:
      raise Interrupted

  def stops(self) -> bool:
    """Whether the run ends here."""
    return self.signal is not None

  def check(self) -> None:
    """Raises `Interrupted` if the run ends here."""
    if self.stops():
      raise Interrupted

  @contextlib.contextmanager
  def waiting(self):
    """A signal that comes inside raises `Interrupted` there."""
    self._raises = True
    try:
      self.check()  # it may have come before
      yield
    finally:
      self._raises = False


class AgreedInterruption(Interruption):
  """A signal to one process ends all of them at the same place.

  Each asks at the same places, between two steps or two batches of an
  evaluation: what is under way on the devices needs all of them.

  Attributes:
    signal: the one that all of them end after, or None.
  """

  def __init__(self, peers: Processes):
    super().__init__()
    self._peers = peers
    self._own: signal.Signals | None = None

  def _remember(self, number, frame):
    agreed = self.signal
    super()._remember(number, frame)
    self.signal, self._own = agreed, self.signal

  def stops(self):
    if self.signal is None:
      number = self._peers.stop_signal(self._own)
      self.signal = None if number is None else signal.Signals(number)
    return self.signal is not None

  @contextlib.contextmanager
  def waiting(self):
    """A signal waits here until the batch is there, which the others use."""
    yield


def interruption_for(peers: Processes) -> Interruption:
  """What hears signals for the processes of a run."""
  return AgreedInterruption(peers) if peers.count > 1 else Interruption()
