"""Seconds of compiled programs, with nothing else going on."""

import time
from collections.abc import Callable

import jax
import numpy as np

# Of each measurement, in seconds.
LONG_ENOUGH = 1.0


def seconds_each(
  run: Callable[[], object],
  *,
  long_enough: float | None = None,
  least: int = 3,
  most: int = 1000,
  clock: Callable[[], float] = time.perf_counter,
) -> np.ndarray:
  """Seconds of each of many calls, one after the other, after one to warm up.

  Args:
    run: starts the computation and returns its arrays, which are waited for.
    long_enough: when to stop, in seconds, between `least` and `most` calls;
      None: `LONG_ENOUGH`.

  Returns:
    float64 `[n]`.
  """
  long_enough = LONG_ENOUGH if long_enough is None else long_enough
  jax.block_until_ready(run())
  seconds, start = [], clock()
  while len(seconds) < least or (
    clock() - start < long_enough and len(seconds) < most
  ):
    before = clock()
    jax.block_until_ready(run())
    seconds.append(clock() - before)
  return np.asarray(seconds)


def latency(run: Callable[[], object]) -> tuple[float, float]:
  """(median, 95th percentile) of the seconds of a call."""
  median, p95 = np.percentile(seconds_each(run, least=20), (50, 95))
  return float(median), float(p95)


def per_second(run: Callable[[], object], count: float) -> float:
  """How many of the `count` that each call handles are handled in a second."""
  return count / float(np.median(seconds_each(run)))
