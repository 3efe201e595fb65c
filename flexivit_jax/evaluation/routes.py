"""Cascades, ensembles and single sizes beside each other."""

import functools
from collections.abc import Mapping, Sequence

import jax

from flexivit_jax.core.text import align
from flexivit_jax.evaluation import answers as answers_lib
from flexivit_jax.evaluation import ensembles
from flexivit_jax.evaluation.answers import Answers
from flexivit_jax.evaluation.cascade import paired_difference
from flexivit_jax.evaluation.cascade_measurement import CascadeResult
from flexivit_jax.evaluation.points import Route, size_name
from flexivit_jax.evaluation.sweep import OneView
from flexivit_jax.training import sharding

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
  everywhere = sharding.replicated(mesh)
  program = jax.jit(
    ensembles.ensembles(predict, sizes),
    in_shardings=(everywhere, sharding.over_rows(mesh)),
    out_shardings=everywhere,
  )
  parts = [
    jax.device_get(program(params, sharding.to_devices(batch, mesh)))
    for batch in loader
  ]
  return {
    tuple(sizes[:count]): answers_lib.gather(list(own))
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
