"""Signals that ask a run to end: heard at once, obeyed between two steps."""

import signal


class Interrupted(Exception):
  """Raised by `Interruption.check`."""


class Interruption:
  """While entered, the first SIGTERM or SIGINT is only remembered.

  Saving in a signal handler would catch the state between two steps. A second
  signal of the same kind ends the process at once.

  Attributes:
    signal: the one that came, or None.
  """

  SIGNALS = (signal.SIGTERM, signal.SIGINT)

  def __init__(self):
    self.signal: signal.Signals | None = None

  def __enter__(self) -> "Interruption":
    self._before = {s: signal.signal(s, self._remember) for s in self.SIGNALS}
    return self

  def __exit__(self, *_):
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _remember(self, number, frame):
    del frame
    self.signal = signal.Signals(number)
    # The system's own handler: it ends a process that is stuck in a compiled
    # function, where none of Python's would run.
    for each in self.SIGNALS:
      signal.signal(each, signal.SIG_DFL)

  def check(self) -> None:
    """Raises `Interrupted` if a signal came."""
    if self.signal is not None:
      raise Interrupted
