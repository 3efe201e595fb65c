"""Errors that are not bugs. Commands print them without a traceback."""

import contextlib
import operator


class Fault(Exception):
  """A bad file, a full disk, a lost worker, numbers that ceased to be finite.

  Its text names the value, the place and the way out; the commands print it
  without a traceback and end with status 1.
  """


class ConfigError(ValueError):
  """Something that the user wrote in a config or on the command line."""


@contextlib.contextmanager
def config_errors_at(place: str):
  """Turns a ValueError into a ConfigError that names a place.

  Args:
    place: what the user wrote that led to it: "config.train", "--data".
  """
  try:
    yield
  except (ConfigError, Fault):
    raise
  except ValueError as e:
    raise ConfigError(f"{place}: {e}") from e


_TESTS = {
  "at_least": operator.ge,
  "above": operator.gt,
  "at_most": operator.le,
  "below": operator.lt,
}


def check(name: str, value: float | None, **bounds: float) -> None:
  """Refuses a number out of bounds, and NaN; None is no number.

  Args:
    bounds: at_least, above, at_most, below.

  Raises:
    ValueError: naming the value and the bounds.
  """
  if value is None or all(_TESTS[k](value, x) for k, x in bounds.items()):
    return
  wanted = " and ".join(f"{k.replace('_', ' ')} {x}" for k, x in bounds.items())
  raise ValueError(f"{name} is {value}: give a number {wanted}")
