"""Numbers of a config that must lie within bounds."""

import operator

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
