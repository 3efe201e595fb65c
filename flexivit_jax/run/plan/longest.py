"""The longest rows that devices have memory for."""

import dataclasses

from flexivit_jax.run.plan.step_cost import Cost
from flexivit_jax.run.plan.ways import LOCAL, Way
from flexivit_jax.run.plan.workload import Layout, Workload

# Beyond what anybody trains on; where the search ends.
MOST = 2**30


def longest(
  work: Workload,
  distribution: Way,
  devices: int,
  *,
  memory: float,
  kernel: str,
) -> int | None:
  """Tokens of the longest row that a step of one row fits, a multiple of the
  devices.

  Args:
    work: of any length.
    devices: that share the row; `local` has the whole row on one of them.
    memory: bytes of each device.
    kernel: as in `Cost.memory`.

  Returns:
    None: the distribution does not go over so many devices, or not even the
    shortest row fits.
  """
  seq = 1 if distribution == LOCAL else devices
  way = LOCAL if seq == 1 else distribution

  def fits(multiple):
    cost = Cost(one_row(work, multiple * seq), Layout(1, seq), way)
    return cost.refusal is None and cost.memory(kernel).total <= memory

  # Memory grows with the length, so that one that fits is below all that do
  # not.
  low, high = 0, MOST // seq
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (middle, high) if fits(middle) else (low, middle)
  return low * seq or None


def one_row(work: Workload, length: int) -> Workload:
  """A step of one row of so many tokens, all of them patches."""
  one = dataclasses.replace(work, rows=1, accumulate=1, prefix=0)
  return one.of_length(length)
