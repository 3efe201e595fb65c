"""Cascades chosen, run and timed beside the single patch sizes."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np

from flexivit_jax.core.sizes import size_name
from flexivit_jax.core.text import align
from flexivit_jax.core.tokens import Batch
from flexivit_jax.devices import placement
from flexivit_jax.evaluation import ensembles
from flexivit_jax.evaluation.cascade import run, thresholds
from flexivit_jax.evaluation.cascade.cascade import (
  Cascade,
  Outcome,
  paired_difference,
)
from flexivit_jax.evaluation.reading import OneView
from flexivit_jax.evaluation.settings import Route
from flexivit_jax.tasks import predictions
from flexivit_jax.tasks.predictions import Answers


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
  programs: run.Programs,
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
    batch = jax.block_until_ready(placement.to_devices(batch, programs.mesh))
    if not i:
      programs.warm(params, batch)
    done = [None] * len(cascades)
    times = np.zeros((rounds, len(cascades)))
    for own in times:
      # Another order each time: what follows the largest is at a disadvantage.
      for j in random.permutation(len(cascades)):
        start = clock()
        done[j] = run.run(programs, cascades[j], params, batch)
        own[j] = clock() - start
    for all_of_it, one in zip(ran, done, strict=True):
      all_of_it.append(one)
    seconds += np.median(times, axis=0)
  return [
    _measured(cascade, runs, total)
    for cascade, runs, total in zip(cascades, ran, seconds.tolist())
  ]


def _measured(cascade: Cascade, runs: Sequence[run.Ran], seconds) -> Measured:
  found = predictions.gather([one.answers for one in runs])
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
  forward: run.Forward,
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
  programs = run.compile_cascades(
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


Size = tuple[int, int]


def measure_ensembles(
  predict: ensembles.Predict,
  sizes: Sequence[Size],
  params,
  loader: OneView,
  mesh: jax.sharding.Mesh,
) -> dict[tuple[Size, ...], Answers]:
  """Answers of the mean of the probabilities of the first two sizes, the first
  three, ..., all of them."""
  everywhere = placement.replicated(mesh)
  program = jax.jit(
    ensembles.ensembles(predict, sizes),
    in_shardings=(everywhere, placement.over_rows(mesh)),
    out_shardings=everywhere,
  )
  parts = [
    jax.device_get(program(params, placement.to_devices(batch, mesh)))
    for batch in loader
  ]
  return {
    tuple(sizes[:count]): predictions.gather(list(own))
    for count, own in enumerate(zip(*parts), start=1)
    if count > 1
  }


def routes(
  result: CascadeResult,
  together: Mapping[tuple[Size, ...], Answers],
  multiply_adds: Mapping[Size, float],
) -> tuple[Route, ...]:
  """All that were measured: single sizes, the curve of cascades with the chosen
  one among them, ensembles.

  Args:
    together: answers of ensembles, by their sizes.
    multiply_adds: by patch size.
  """
  smallest = result.singles[-1].outcome.answers
  compared = functools.partial(paired_difference, others=smallest)
  seconds = {
    one.outcome.cascade.sizes[0]: one.seconds for one in result.singles
  }
  found = {}
  for one in (*result.singles, *result.curve, result.measured):
    cascade = one.outcome.cascade
    kind = "cascade" if len(cascade.sizes) > 1 else "single size"
    found[cascade] = Route(
      kind,
      str(cascade),
      one.outcome.answers.top(1),
      compared(one.outcome.answers),
      one.outcome.cost(multiply_adds),
      one.seconds,
      chosen=cascade == result.chosen.cascade,
    )
  return (
    *found.values(),
    *(
      Route(
        "ensemble",
        " + ".join(map(size_name, sizes)),
        answers.top(1),
        compared(answers),
        sum(multiply_adds[size] for size in sizes),
        sum(seconds[size] for size in sizes),
      )
      for sizes, answers in together.items()
    ),
  )


HEAD = ("patch sizes", "", "top-1 %", "less smallest", "MFLOP", "us", "time %")


def cells(found: Sequence[Route]) -> list[tuple[str, ...]]:
  """A line of text for each, in the columns of `HEAD`.

  The time is compared with that of the smallest patches, the last of the
  single sizes.
  """
  smallest = [r for r in found if r.kind == "single size"][-1]
  return [
    (
      r.name,
      r.kind + (", chosen" if r.chosen else ""),
      f"{100 * r.top1:.1f}",
      f"{100 * r.difference[0]:+.1f} +- {100 * r.difference[1]:.1f}",
      f"{r.multiply_adds / 1e6:.3g}",
      f"{1e6 * r.seconds:.3g}",
      f"{100 * r.seconds / smallest.seconds:.0f}",
    )
    for r in found
  ]


def table(found: Sequence[Route]) -> str:
  """The same as aligned text."""
  return align([HEAD, *cells(found)], left=2)
