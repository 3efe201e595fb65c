"""The model of a run's checkpoint."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.traverse_util

from flexivit_jax.checkpoints import (
  run_directory,
  run_metrics,
  run_record,
  run_store,
)
from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.checkpoints.model import StoredModel
from flexivit_jax.checkpoints.origin import Spec
from flexivit_jax.config import build
from flexivit_jax.core.patch_size import FixedPatchSize
from flexivit_jax.core.text import listed

RUN = "flexivit_jax run"


def read(
  path: pathlib.Path, step: int | None, ema: bool, given: Mapping[str, Any]
) -> StoredModel:
  """A checkpoint of a run; arguments as in `load.load`."""
  if given.keys() - {"patch_size"}:
    raise ValueError(
      f"{path} is a run, whose config says all: leave out "
      f"{listed(sorted(given.keys() - {'patch_size'}))}"
    )
  saved = run_record.read(path)
  experiment = build.from_plain(saved["config"])
  steps = run_directory.steps(path)
  if not steps:
    raise ValueError(f"{path}: this run has no finished checkpoint yet")
  chosen = ""
  if step is None:
    scores = run_metrics.read_scores(path / "metrics.jsonl")
    best = run_metrics.best({s: scores[s] for s in steps if s in scores})
    step = steps[-1] if best is None else best
    chosen = " (latest)" if best is None else " (best on validation)"
  elif step not in steps:
    have = ", ".join(map(str, steps))
    raise ValueError(f"{path}: no checkpoint of step {step}; there are {have}")
  flatten = functools.partial(flax.traverse_util.flatten_dict, sep="/")
  found = run_store.load_params(path, step, ema=ema)
  params, own = dict(found.params), {}
  for name in experiment.task.own_parameters:
    own |= flatten({name: params.pop(name, {})})
  arrays = flatten(params)
  chosen += ", moving average of the parameters" if found.is_average else ""
  parameters.check(experiment.model, arrays, f"{path}, step {step}")
  policy = experiment.patch_size
  fixed = policy.sizes[0] if isinstance(policy, FixedPatchSize) else None
  spec = Spec(
    source=RUN,
    path=str(path),
    step=step,
    chosen=chosen,
    patch_size=given.get("patch_size", fixed),
    trained_sizes=policy.sizes,
    classes=tuple(saved["classes"]),
    experiment=experiment,
    checked=True,
  )
  return StoredModel(experiment.model, arrays, spec, own)
