"""Cascades chosen, run and timed beside the single patch sizes."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np

from flexivit_jax.core.tokens import Batch
from flexivit_jax.evaluation import answers as answers_lib
from flexivit_jax.evaluation import compaction, thresholds
from flexivit_jax.evaluation.answers import Answers
from flexivit_jax.evaluation.cascade import Cascade, Outcome, paired_difference
from flexivit_jax.evaluation.sweep import OneView
from flexivit_jax.training import sharding


@dataclasses.dataclass(frozen=True)
class Measured:
  """A cascade run on all images.

  Attributes:
    outcome: by index of the images.
    rows: computed at each size, padding included.
    seconds: of an image on the mean, from a batch on the devices to its
      answers on the host.
  """

  outcome: Outcome
  rows: tuple[int, ...]
  seconds: float


def measure(
  programs: compaction.Programs,
  cascades: Sequence[Cascade],
  params,
  batches: Iterable[Batch],
  *,
  rounds: int = 1,
  clock: Callable[[], float] = time.perf_counter,
) -> list[Measured]:
  """Runs cascades on the same batches, in turn, and times them.

  What they cost beside each other holds on a busy machine too.

  Args:
    cascades: a single size is one as well.
    batches: on the host; each is read and moved to the devices once.
    rounds: how often each batch is run; its time is their median.
    clock: seconds. `time.process_time` counts what the cores did for this
      process, so on CPUs it leaves out what else runs there.

  Raises:
    ValueError: there is no image.
  """
  ran = [[] for _ in cascades]
  seconds = np.zeros(len(cascades))
  random = np.random.default_rng(0)
  for i, batch in enumerate(batches):
    batch = jax.block_until_ready(sharding.to_devices(batch, programs.mesh))
    if not i:
      programs.warm(params, batch)
    done = [None] * len(cascades)
    times = np.zeros((rounds, len(cascades)))
    for own in times:
      # Another order each time: what follows the largest is at a disadvantage.
      for j in random.permutation(len(cascades)):
        start = clock()
        done[j] = compaction.run(programs, cascades[j], params, batch)
        own[j] = clock() - start
    for all_of_it, one in zip(ran, done, strict=True):
      all_of_it.append(one)
    seconds += np.median(times, axis=0)
  return [
    _measured(cascade, runs, total)
    for cascade, runs, total in zip(cascades, ran, seconds.tolist())
  ]


def _measured(
  cascade: Cascade, runs: Sequence[compaction.Ran], seconds
) -> Measured:
  found = answers_lib.gather([one.answers for one in runs])
  index = np.concatenate([one.answers.index for one in runs])
  stages = np.concatenate([one.stages for one in runs])
  real = np.flatnonzero(index >= 0)
  stages = stages[real[np.argsort(index[real], kind="stable")]]
  rows = tuple(np.sum([one.rows for one in runs], axis=0).tolist())
  outcome = Outcome(cascade, found, stages)
  return Measured(outcome, rows, seconds / len(found))


@dataclasses.dataclass(frozen=True)
class CascadeResult:
  """A chosen cascade beside the single sizes, on other data than chose it.

  Attributes:
    chosen: with its accuracy and cost on the validation data.
    measured: the chosen one.
    singles: each patch size alone, by decreasing area.
    front: all that are worth their cost on the validation data.
    curve: some of the front, by rising cost there.
  """

  chosen: thresholds.Choice
  measured: Measured
  singles: tuple[Measured, ...]
  front: tuple[thresholds.Choice, ...]
  curve: tuple[Measured, ...]

  @property
  def difference(self) -> tuple[float, float]:
    """Top-1 less that of the smallest patches, and its standard error."""
    smallest = self.singles[-1].outcome.answers
    return paired_difference(self.measured.outcome.answers, smallest)

  @property
  def time_ratio(self) -> float:
    """Measured time of an image, as a share of that of the smallest patches."""
    return self.measured.seconds / self.singles[-1].seconds


def measure_cascade(
  forward: compaction.Forward,
  params,
  *,
  validation: Mapping[tuple[int, int], Answers],
  costs: Mapping[tuple[int, int], float],
  loader: OneView,
  mesh: jax.sharding.Mesh,
  report: Callable[[str], None],
  target: float | None = None,
  budget: float | None = None,
  rounds: int = 1,
  num_curve: int = 5,
) -> CascadeResult:
  """Chooses a cascade on validation data, and measures it on other data.

  Everything is compiled before anything is measured.

  Args:
    validation: by patch size, answers to the validation images.
    costs: by patch size, of one image.
    loader: of the other images.
    target: top-1 that the cascade is to have on the validation data, 0 to 1;
      None: that of the smallest patches.
    budget: mean cost that it may have instead.
    rounds: as of `measure`.
    num_curve: cascades of the front to measure as well.

  Raises:
    ValueError: both are given, or no cascade reaches what was asked for.
  """
  if target is not None and budget is not None:
    raise ValueError("a target and a budget: give one of them")
  sizes = sorted(validation, key=math.prod, reverse=True)
  front = thresholds.front(sizes, validation, costs)
  if budget is not None:
    chosen = thresholds.for_budget(front, budget)
  else:
    target = validation[sizes[-1]].top(1) if target is None else target
    chosen = thresholds.for_accuracy(front, target)
  singles = [Cascade((size,)) for size in sizes]
  curve = [choice.cascade for choice in spread(front, num_curve)]
  # Each once: the cheapest of a front is a single size.
  cascades = list(dict.fromkeys([*singles, chosen.cascade, *curve]))
  programs = compaction.compile_cascades(
    forward, cascades, params, loader.example(), mesh=mesh, report=report
  )
  measured = measure(programs, cascades, params, loader, rounds=rounds)
  by_cascade = dict(zip(cascades, measured, strict=True))
  return CascadeResult(
    chosen=chosen,
    measured=by_cascade[chosen.cascade],
    singles=tuple(map(by_cascade.get, singles)),
    front=front,
    curve=tuple(map(by_cascade.get, curve)),
  )


def spread(
  front: Sequence[thresholds.Choice], count: int
) -> list[thresholds.Choice]:
  """At most so many, from the cheapest to the most accurate, spread evenly."""
  if not count:
    return []
  places = np.linspace(0, len(front) - 1, min(count, len(front)))
  return [front[i] for i in places.round().astype(int)]
