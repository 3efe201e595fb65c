"""Cascades chosen, run and timed beside the single patch sizes."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np

from flexivit_jax.core.text import align
from flexivit_jax.core.tokens import Batch
from flexivit_jax.devices import placement
from flexivit_jax.evaluation.cascade import run, thresholds
from flexivit_jax.evaluation.cascade.cascade import (
  Cascade,
  Outcome,
  paired_difference,
)
from flexivit_jax.evaluation.cascade.thresholds import Choice
from flexivit_jax.evaluation.reading import OneView
from flexivit_jax.evaluation.settings import Route
from flexivit_jax.tasks import predictions
from flexivit_jax.tasks.predictions import Answers

# Cascades that are measured beside the chosen one and the single sizes.
NUM_CURVE = 5


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
  rounds: int = 1,
) -> tuple[thresholds.Choice, dict[Cascade, Measured]]:
  """Chooses a cascade on validation data, and measures it on other data.

  Everything is compiled before anything is measured.

  Args:
    validation: by patch size, answers to the validation images.
    costs: by patch size, of one image.
    loader: of the other images.
    target: top-1 that the cascade is to have on the validation data, 0 to 1;
      None: that of the smallest patches.
    rounds: as of `measure`.

  Returns:
    The chosen cascade, with its accuracy and cost on the validation data; and
    by cascade what was measured: each patch size alone, by decreasing area,
    then some of those that are worth their cost, the chosen one among them.

  Raises:
    ValueError: no cascade reaches the target.
  """
  sizes = sorted(validation, key=math.prod, reverse=True)
  front = thresholds.front(sizes, validation, costs)
  target = validation[sizes[-1]].top(1) if target is None else target
  chosen = thresholds.for_accuracy(front, target)
  singles = [Cascade((size,)) for size in sizes]
  # From the cheapest to the most accurate, spread evenly; each once.
  places = np.linspace(0, len(front) - 1, min(NUM_CURVE, len(front)))
  curve = [front[i].cascade for i in places.round().astype(int)]
  cascades = list(dict.fromkeys([*singles, *curve, chosen.cascade]))
  programs = run.compile_cascades(
    forward, cascades, params, loader.example(), mesh=mesh, report=report
  )
  measured = measure(programs, cascades, params, loader, rounds=rounds)
  return chosen, dict(zip(cascades, measured, strict=True))


def routes(
  chosen: Choice,
  measured: Mapping[Cascade, Measured],
  multiply_adds: Mapping[tuple[int, int], float],
) -> tuple[Route, ...]:
  """List what was measured, each compared with the smallest patches.

  Args:
    chosen, measured: of `measure_cascade`.
    multiply_adds: by patch size.
  """
  last = min(multiply_adds, key=math.prod)
  smallest = measured[Cascade((last,))].outcome.answers
  return tuple(
    Route(
      "cascade" if len(cascade.sizes) > 1 else "single size",
      str(cascade),
      one.outcome.answers.top(1),
      paired_difference(one.outcome.answers, smallest),
      one.outcome.cost(multiply_adds),
      one.seconds,
      chosen=cascade == chosen.cascade,
    )
    for cascade, one in measured.items()
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
  """The lines of `cells` as aligned text."""
  return align([HEAD, *cells(found)], left=2)
