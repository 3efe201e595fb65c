"""Signals that ask a run to end: heard at once, obeyed between two steps."""

import contextlib
import signal


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

  def check(self) -> None:
    """Raises `Interrupted` if a signal came."""
    if self.signal is not None:
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
