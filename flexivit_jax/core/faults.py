"""What ends a run through nobody's programming: told in a few lines."""


class Fault(Exception):
  """A bad file, a full disk, a lost worker, numbers that ceased to be finite.

  Its text names the value, the place and the way out; the commands print it
  without a traceback and end with status 1.
  """
