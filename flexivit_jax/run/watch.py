"""Rows and lines of a run, one step behind the devices."""

import collections
import itertools
import json
import pathlib
import time

import jax
import jax.numpy as jnp

from flexivit_jax.checkpoints import run_directory, run_metrics
from flexivit_jax.config import writer_specs
from flexivit_jax.core.errors import Fault, config_errors_at
from flexivit_jax.devices import placement
from flexivit_jax.evaluation import contact_sheet, reading, sweep
from flexivit_jax.run import memory_report, profile, progress, speed, writers
from flexivit_jax.run import metrics as metrics_lib
from flexivit_jax.run.interruption import Interrupted
from flexivit_jax.training import state


class NonFiniteError(Fault):
  """A loss, gradient or update was infinite or not a number."""


class Watch:
  """Rows, lines, pictures and traces of a run, one step behind the devices.

  A context: it ends with the files and the trace closed.

  Args:
    run: a `programs.Run`.
    first: steps that are done.
    window: the steps to trace.
  """

  def __init__(
    self,
    run,
    first: int,
    workdir: pathlib.Path,
    store,
    window: profile.Window | None = None,
  ):
    experiment = run.experiment
    self._run = run
    self._store = store
    self._workdir = workdir
    self._first = first
    self._is_first = run.peers.index == 0
    self._file, self._writers, scores = None, [], {}
    if self._is_first:  # the rows are one process's
      self._file = run_metrics.MetricsFile(workdir / "metrics.jsonl", first)
      self._writers = [self._file]
      scores = run_metrics.read_scores(workdir / "metrics.jsonl")
    self._scores = dict(run.peers.gather(list(scores.items()))[0])
    self._progress = progress.Progress(first, run.total_steps)
    self.line = self._progress.line
    self._learning_rate = experiment.optimizer.schedule.build(
      experiment.optimizer.learning_rate, run.total_steps
    )
    self._pending = None
    self._logged = first
    self._sizes = collections.Counter()  # of the steps since the last row
    self._named = {"train": len(run.loader.bad)}
    self._in_flight = collections.deque()
    self._profiler = profile.Profiler(window, workdir / "profile", self.line)
    self._evaluations, self._pictures = {}, {}
    self.clock = speed.Clock()
    # Patch sizes of the steps under way.
    self.recent = collections.deque(maxlen=4)

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self._profiler.__exit__(*exc)
    self._progress.close()
    for writer in self._writers:
      writer.close()

  def open(self, params) -> None:
    """Opens the writers, and compiles evaluations and pictures.

    Raises:
      ConfigError: a writer fails at the run's beginning.
    """
    run = self._run
    self._profiler.begin(self._first)
    if self._is_first:
      resumed = writer_specs.Resumed(
        self._first, self._file.removed, run_metrics.is_evaluation
      )
      with config_errors_at("config.writers"):
        self._writers += writers.open_all(
          *(run.experiment.writers, self._workdir, run.record),
          *(resumed, self.line),
        )
    self._evaluations = run.compile_evaluation(params, self.line)
    self._pictures = run.compile_pictures(params)

  def _write(self, done: int, values) -> None:
    for writer in self._writers:
      writer.write(done, values)

  def waiting(self):
    """A context around the wait for a batch."""
    return self.clock.part(speed.DATA_WAIT)

  def step(self, i: int, size):
    """A context around the dispatch of step i at a patch size."""
    self.recent.append(size)
    return self._profiler.step(i)

  def stepped(self, done: int, size, metrics) -> None:
    """Counts a dispatched step; reads what was deferred before it."""
    self.flush()  # earlier numbers, read while this step is under way
    self._in_flight.append(metrics)
    if len(self._in_flight) > 2:  # bounds the batches that wait on the devices
      jax.block_until_ready(self._in_flight.popleft())
    self._progress.advance()
    self._sizes[size] += 1
    self._profiler.done(done, metrics)

  def defer(self, done: int, metrics, finite: state.Finite) -> None:
    """Remembers metrics of a step that may still be under way."""
    # Copied: the next step takes the state's own.
    finite = jax.tree.map(jnp.copy, finite)
    overflowed = getattr(self._run.loader, "overflowed", 0)
    gflops = sum(
      n * self._run.numbers.gflops(size) for size, n in self._sizes.items()
    )
    self._sizes.clear()
    self._pending = done, metrics, finite, overflowed, gflops

  def flush(self) -> None:
    """Writes what was deferred; waits for that step only.

    Raises:
      NonFiniteError: a step up to then was not finite.
    """
    if self._pending is None:
      return
    done, metrics, finite, overflowed, gflops = self._pending
    self._pending = None
    self.check_finite(finite, done)
    values = self._run.numbers.values(metrics)
    values["learning_rate"] = float(self._learning_rate(done - 1))
    overflowed = sum(self._by_rows(overflowed))
    values |= self._bad_images("train", self._run.loader.bad, "bad_images")
    if overflowed:
      values["pack/overflowed_images"] = overflowed
    values |= self._speed(done - self._logged, values, gflops)
    self._logged = done
    self._write(done, values)
    self._progress.log(done, values)

  def _speed(self, steps, values, gflops) -> dict[str, float]:
    images = steps * values.get(
      "pack/images_per_step", self._run.experiment.batch_size
    )
    packed_cost = values.get(metrics_lib.PACKED_COST, 0.0)
    gflops += metrics_lib.TRAINING * images * packed_cost
    seconds, shares = self.clock.take()
    flops_per_s = 2 * 1e9 * gflops / seconds
    return {
      "speed/images_per_s": images / seconds,
      "speed/step_s": seconds / steps,
      "speed/tflops_per_s": flops_per_s / 1e12,
      "speed/mfu": flops_per_s / self._run.matmul_rate,
      **shares,
    }

  def check_finite(self, finite: state.Finite, done: int) -> None:
    """Stops a run whose numbers cannot be trusted any more.

    Raises:
      NonFiniteError: naming the step, after writing what it was made of.
    """
    if finite.flag:
      return
    run, index = self._run, int(finite.step)
    program = run.experiment.program(index)
    patches = "packed" if program is None else f"{program[0]}x{program[1]}"
    path = self._workdir / "nonfinite.json"
    values = {
      "step": index + 1,
      "patch_size": patches,
      # As text: JSON has no nan.
      "loss": f"{finite.loss:g}",
      "gradient_norm": f"{finite.gradient_norm:g}",
      "update_norm": f"{finite.update_norm:g}",
      "learning_rate": float(self._learning_rate(index)),
      "images": list(
        itertools.chain.from_iterable(self._by_rows(run.loader.names(index)))
      ),
    }
    if self._is_first:
      path.write_text(json.dumps(values, indent=2) + "\n")
    self._store.wait()
    good = run_directory.steps(self._workdir)
    last = f"the checkpoint of step {good[-1]}" if good else "no checkpoint"
    raise NonFiniteError(
      f"step {index + 1} was not finite (seen after step {done}): loss "
      f"{values['loss']}, gradient norm {values['gradient_norm']}, update norm "
      f"{values['update_norm']}, patch size {patches}, learning rate "
      f"{values['learning_rate']:g}\n"
      f"its images are in {path}; {last} is from before it\n"
      "the same command would come here again: give a lower "
      "config.optimizer.learning_rate or a config.optimizer.clip_norm, and "
      "another --workdir"
    )

  def owes_evaluation(self, done: int) -> bool:
    """Whether an evaluation is due after this step, and was not done yet."""
    run = self._run
    due = run.validation is not None and done > 0
    due = due and run.is_due(run.experiment.eval_every, done)
    return due and done not in self._scores

  def evaluate(self, done: int, params, interruption) -> None:
    """Validation at every patch size; an interruption ends it without."""
    self.flush()
    with self.clock.part(speed.EVALUATION):
      self._evaluate(done, params, interruption)
      self._draw(done, params)

  def _evaluate(self, done, params, interruption):
    start = time.perf_counter()
    run = self._run

    def on_devices(batch):
      interruption.check()
      return placement.to_devices(batch, run.mesh)

    try:
      with memory_report.explaining_evaluation(run):
        found = sweep.sweep(
          {s: p.of(params) for s, p in self._evaluations.items()},
          [run.validation],
          on_devices,
          gather=run.evaluation.gather,
        )
    except Interrupted:
      return  # the resumed run begins with it
    rows = run.evaluation.values(found)
    self._scores[done] = run_metrics.score(rows)
    self._progress.log(done, rows)
    bad = reading.bad_images([run.validation])
    rows |= self._bad_images("validation", bad, "validation/bad_images")
    rows["speed/evaluation_s"] = time.perf_counter() - start
    self._write(done, rows)

  def _draw(self, done, params):
    for setting, program in self._pictures.items():
      images = jax.device_get(program.call(params, self._run.shown[setting]))
      if self._is_first:
        directory = self._workdir / "pictures"
        directory.mkdir(exist_ok=True)
        name = f"{done:08d}_{setting.short_name}.png"
        contact_sheet.contact_sheet(images).save(directory / name)

  def _bad_images(self, data: str, bad, name: str) -> dict[str, int]:
    """Names those that are new, and counts all, if there are any."""
    found = self._by_rows(list(bad.items()))
    reasons = list({i: text for each in found for i, text in each}.values())
    for reason in reasons[self._named.get(data, 0) :]:
      self.line(f"skipped: {reason}")
    self._named[data] = len(reasons)
    return {name: len(reasons)} if reasons else {}

  def _by_rows(self, own) -> list:
    """What the process of each group of rows has found, JSON."""
    if self._run.peers.count == 1:
      return [own]
    group, _ = placement.process_rows(self._run.mesh)
    by_group = dict(self._run.peers.gather((group, own)))
    return [by_group[group] for group in sorted(by_group)]

  def save(self, done: int, state, metrics, position) -> None:
    """Saves a checkpoint, after the rows that no resumed run would write again.

    Args:
      position: of this process's loader.
    """
    self.flush()
    self.check_finite(state.finite, done)
    with self.clock.part(speed.CHECKPOINT):
      self._store.save(
        done,
        {"state": state, "running": metrics},
        {"loader": self._run.position(position)},
        self.best(),
      )

  def best(self) -> int | None:
    """The step with the best score so far; the later of equals."""
    return run_metrics.best(self._scores)
