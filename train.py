"""Trains a model.

  python train.py --config configs/flexivit_digits.py --workdir runs/flexivit

The same command again resumes from the last checkpoint. Every value of the
config can be changed on the command line: --config.batch_size=32
"""

import collections
import dataclasses
import functools
import json
import pathlib
import time
from typing import Any

import jax

from flexivit_jax import config as config_lib
from flexivit_jax.checkpoints import native
from flexivit_jax.cli import arguments
from flexivit_jax.core.tokens import Batch
from flexivit_jax.data import loader as loader_lib
from flexivit_jax.data.sources import Source
from flexivit_jax.evaluation import sweep
from flexivit_jax.experiment import (
  ConfigError,
  Experiment,
  blaming,
  check_same_classes,
)
from flexivit_jax.training import compilation, log, provenance, sharding, step

# Validation top-1, averaged over patch sizes, says which checkpoint is best.
SCORE = "top1"

# Config values that may change when a run is resumed.
RESUMABLE = (
  *("keep", "log_every", "save_every", "eval_every", "eval_batch_size"),
  *("threads", "workers", "test"),
)


def main(argv=None):
  parser = arguments.parser(__doc__)
  arguments.add_config(parser)
  parser.add_argument("--workdir", required=True, help="directory of the run")
  args, overrides = arguments.parse(parser, argv)
  train(config_lib.load(args.config, overrides), pathlib.Path(args.workdir))


def train(experiment: Experiment, workdir: pathlib.Path) -> None:
  """Runs an experiment in a directory, or resumes the run that is there."""
  compilation.enable_persistent_cache()
  run = prepare(experiment, workdir)
  zero = zero_metrics(run)
  state, metrics = start(run, zero)
  first = int(state.step)
  if first == run.total_steps:
    print(f"{workdir} is finished: it has all {first} steps")
    run.checkpoints.close()
    return
  progress = log.Progress(first, run.total_steps)
  steps, measures = compile_sizes(run, state, metrics, progress.line)
  watch = Watch(run, first, workdir, progress)
  in_flight = collections.deque()

  for i in range(first, run.total_steps):
    patch_hw = experiment.patch_size(i, experiment.seed)
    batch = sharding.to_devices(next(run.loader), run.mesh)
    state, metrics = steps[patch_hw](state, metrics, batch)
    watch.flush()  # earlier numbers, read while this step is under way
    in_flight.append(metrics)
    if len(in_flight) > 2:  # bounds the batches that wait on the devices
      jax.block_until_ready(in_flight.popleft())
    done = i + 1
    progress.advance()
    if run.is_due(experiment.log_every, done):
      watch.defer(done, metrics)
      metrics = zero
    scores = None
    if run.validation is not None and run.is_due(experiment.eval_every, done):
      scores = watch.evaluate(done, measures, state.params)
    if scores or run.is_due(experiment.save_every, done):
      watch.flush()  # no resumed run would write these rows again
      arrays = {"state": state, "running": metrics}
      position = {"loader": run.loader.get_state()}
      run.checkpoints.save(done, arrays, position, scores)

  watch.close()
  run.loader.close()
  run.checkpoints.close()
  print(f"finished; next: python evaluate.py --checkpoint {workdir}")


@dataclasses.dataclass(frozen=True)
class Run:
  """What a run works with: opened data, devices, optimiser, checkpoints."""

  experiment: Experiment
  total_steps: int
  mesh: jax.sharding.Mesh
  loader: loader_lib.TrainLoader
  example: Batch
  validation: Source | None
  tx: Any
  checkpoints: native.Checkpoints

  def is_due(self, every: int, done: int) -> bool:
    return done % every == 0 or done == self.total_steps

  def measure(self, params, batch, **kwargs):
    return self.experiment.task.measure(
      self.experiment.model, params, batch, **kwargs
    )


def prepare(experiment: Experiment, workdir: pathlib.Path) -> Run:
  """Opens and checks everything, before anything expensive starts."""
  if workdir.exists() and not workdir.is_dir():
    raise ConfigError(f"--workdir {workdir} is a file: give a directory")
  mesh = sharding.make_mesh()
  with blaming("config.batch_size"):
    sharding.check_batch_size(experiment.batch_size, mesh)
  with blaming("config.train"):
    source = experiment.train.source.open()
    experiment = experiment.for_classes(source.classes)
    loader = loader_lib.TrainLoader(
      source,
      experiment.train.transforms,
      batch_size=experiment.batch_size,
      seed=experiment.seed,
      workers=experiment.workers,
      threads=experiment.threads,
      shard=shard(),
    )
    example = loader.example()
  experiment.check_patch_sizes(example.inputs.shape[1:3])
  validation = None
  if experiment.validation is not None:
    with blaming("config.validation"):
      validation = experiment.validation.source.open()
      check_same_classes(source, validation)
      first = next(validation_batches(experiment, validation, mesh))
      experiment.check_patch_sizes(first.inputs.shape[1:3])
  if experiment.test is not None:
    with blaming("config.test"):
      check_same_classes(source, experiment.test.source.open())
  total_steps = experiment.num_steps(len(source))
  with blaming("config.model"):
    params = jax.eval_shape(lambda: init_params(experiment, example))
  with blaming("config.optimizer"):
    tx = experiment.optimizer.build(total_steps)
    jax.eval_shape(tx.init, params)
  record(experiment, workdir, {"train": source, "validation": validation})
  return Run(
    experiment=experiment,
    total_steps=total_steps,
    mesh=mesh,
    loader=loader,
    example=example,
    validation=validation,
    tx=tx,
    checkpoints=native.Checkpoints(
      workdir, keep=experiment.keep, score=SCORE if validation else None
    ),
  )


def shard() -> tuple[int, int]:
  return jax.process_index(), jax.process_count()


def validation_batches(experiment: Experiment, source: Source, mesh):
  rows = sharding.round_up(experiment.eval_batch_size, mesh)
  transforms = experiment.validation.transforms
  return loader_lib.eval_batches(source, transforms, rows, shard())


def record(experiment, workdir, opened) -> None:
  """Writes config.json; where checkpoints exist, refuses another run's.

  Raises:
    ConfigError: config or data differ from what the run started with.
  """
  path = workdir / "config.json"
  opened = {name: source for name, source in opened.items() if source}
  new = {
    "config": config_lib.to_json(experiment),
    "data": {
      name: {"fingerprint": source.fingerprint, "images": len(source)}
      for name, source in opened.items()
    },
    "classes": list(opened["train"].classes),
  }
  if path.exists() and native.steps(workdir):
    old = json.loads(path.read_text())
    changed = [
      line
      for part in ("config", "data")
      for line in config_lib.differences(old[part], new[part])
      if line.split(":")[0].split(".")[0] not in RESUMABLE
    ]
    if changed:
      raise ConfigError(
        f"{workdir} holds a run that started otherwise ({'; '.join(changed)}): "
        "give the old values to resume it, or another --workdir"
      )
    return
  workdir.mkdir(parents=True, exist_ok=True)
  new |= {"provenance": provenance.describe()}
  temporary = path.with_suffix(".tmp")
  temporary.write_text(json.dumps(new, indent=2) + "\n")
  temporary.replace(path)


def init_params(experiment: Experiment, example: Batch):
  key, size = jax.random.key(experiment.seed), experiment.patch_size.sizes[0]
  return experiment.task.init(experiment.model, key, example.inputs, size)


def start(run: Run, zero):
  """The state and running metrics to go on from, on the devices."""
  experiment = run.experiment
  everywhere = sharding.replicated(run.mesh)

  def init():
    params = init_params(experiment, run.example)
    return step.init_state(params, run.tx, experiment.seed)

  state, metrics = jax.jit(init, out_shardings=everywhere)(), zero
  latest = run.checkpoints.latest()
  if latest is not None:
    arrays = {"state": state, "running": metrics}
    arrays, position = run.checkpoints.restore(latest, arrays)
    state, metrics = arrays["state"], arrays["running"]
    run.loader.set_state(position["loader"])
    print(f"resuming after step {latest} of {run.total_steps}", flush=True)
  return state, metrics


def zero_metrics(run: Run):
  zero = step.zero_metrics(run.experiment.task.metrics)
  return jax.device_put(zero, sharding.replicated(run.mesh))


def compile_sizes(run: Run, state, metrics, report):
  """The train step and the evaluation at every patch size, compiled."""
  experiment = run.experiment
  sizes = experiment.patch_size.sizes
  everywhere = sharding.replicated(run.mesh)
  rows = sharding.over_rows(run.mesh)

  def train_step(state, metrics, batch, *, patch_hw):
    measure = functools.partial(run.measure, patch_hw=patch_hw)
    return step.train_step(state, metrics, batch, measure=measure, tx=run.tx)

  batch = sharding.shapes(run.example, run.mesh)
  steps = compilation.compile_sizes(
    train_step,
    sizes,
    arguments=(state, metrics, batch),
    jit_options={
      "in_shardings": (everywhere, everywhere, rows),
      "out_shardings": (everywhere, everywhere),
      "donate_argnums": 0,
    },
    report=report,
    what="train step",
  )
  measures = {}
  if run.validation is not None:
    batch = next(validation_batches(experiment, run.validation, run.mesh))
    batch = sharding.shapes(batch, run.mesh)
    measures = compilation.compile_sizes(
      run.measure,
      sizes,
      arguments=(state.params, batch),
      jit_options={
        "in_shardings": (everywhere, rows),
        "out_shardings": everywhere,
      },
      report=report,
      what="evaluation",
    )
  return steps, measures


class Watch:
  """Turns metrics into rows and lines, one step behind the devices."""

  def __init__(self, run: Run, first: int, workdir: pathlib.Path, progress):
    experiment = run.experiment
    self._run = run
    self._file = log.MetricsFile(workdir / "metrics.jsonl", first)
    self._progress = progress
    self._learning_rate = experiment.optimizer.schedule.build(
      experiment.optimizer.learning_rate, run.total_steps
    )
    self._pending = None
    self._logged = first
    self._since = time.perf_counter()

  def defer(self, done: int, metrics) -> None:
    """Remembers metrics of a step that may still be under way."""
    self._pending = done, metrics

  def flush(self) -> None:
    """Writes what was deferred; waits for that step only."""
    if self._pending is None:
      return
    done, metrics = self._pending
    self._pending = None
    names = (*self._run.experiment.task.metrics, "gradient_norm")
    values = {name: float(metrics[name]) for name in names}
    values["learning_rate"] = float(self._learning_rate(done - 1))
    now = time.perf_counter()
    images = (done - self._logged) * self._run.experiment.batch_size
    values["speed/images_per_s"] = images / (now - self._since)
    self._since, self._logged = now, done
    self._file.write(done, values)
    self._progress.log(done, values)

  def evaluate(self, done: int, measures, params) -> dict[str, float]:
    """Validation at every patch size; returns the scores."""
    self.flush()
    start = time.perf_counter()
    run = self._run
    batches = (
      sharding.to_devices(batch, run.mesh)
      for batch in validation_batches(run.experiment, run.validation, run.mesh)
    )
    points = sweep.sweep(measures, params, batches)
    scores = {SCORE: sum(p.top1 for p in points) / len(points)}
    rows = {f"validation/top1@{p.name}": p.top1 for p in points}
    self._progress.log(done, rows)
    rows |= {f"validation/loss@{p.name}": p.loss for p in points}
    self._file.write(done, {f"validation/{SCORE}": scores[SCORE], **rows})
    self._since += time.perf_counter() - start  # not the training's time
    return scores

  def close(self) -> None:
    self.flush()
    self._file.close()
    self._progress.close()


if __name__ == "__main__":
  arguments.run(main)
