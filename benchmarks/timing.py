"""Timing that holds on a busy machine: what is compared takes turns."""

import statistics
import time
from collections.abc import Callable, Mapping

import jax


def in_turn(calls: Mapping[str, Callable], rounds: int) -> dict[str, float]:
  """Median seconds of each call, after one that warms up."""
  for call in calls.values():
    jax.block_until_ready(call())
  seconds = {name: [] for name in calls}
  for _ in range(rounds):
    for name, call in calls.items():
      start = time.perf_counter()
      jax.block_until_ready(call())
      seconds[name].append(time.perf_counter() - start)
  return {name: statistics.median(times) for name, times in seconds.items()}
