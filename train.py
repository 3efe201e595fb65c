"""Trains a model.

  python train.py --config configs/flexivit_digits.py --workdir runs/flexivit

The same command again resumes from the last checkpoint. Every value of the
config can be changed on the command line: --config.batch_size=32

On SIGTERM, Ctrl-C or SIGHUP the run saves after the step under way and ends
with status 143, 130 or 129; a second one ends it at once.

On several machines: docs/many_machines.md
"""

import collections
import contextlib
import itertools
import json
import os
import pathlib
import sys
import time

import jax
import jax.numpy as jnp

from flexivit_jax import config as config_lib
from flexivit_jax import overrides as overrides_lib
from flexivit_jax import preparation, record, run_numbers
from flexivit_jax import run as run_lib
from flexivit_jax.checkpoints import native
from flexivit_jax.cli import arguments, distributed, dry_run, errors
from flexivit_jax.core.faults import Fault
from flexivit_jax.core.peers import ALONE, Peers
from flexivit_jax.evaluation import pictures, sweep
from flexivit_jax.experiment import ConfigError, Experiment, blaming
from flexivit_jax.training import (
  agreement,
  compilation,
  log,
  profile,
  sharding,
  step,
  time_split,
  writers,
)
from flexivit_jax.training.interruption import Interrupted, interruption_for


class NonFiniteError(Fault):
  """A loss, gradient or update was infinite or not a number."""


def main(argv=None):
  parser = arguments.parser(__doc__)
  arguments.add_config(parser)
  parser.add_argument("--workdir", help="directory of the run")
  parser.add_argument(
    "--profile",
    metavar="START:STOP",
    help="trace the steps from START to STOP, 100:110 say, under "
    "WORKDIR/profile",
  )
  parser.add_argument(
    "--dry_run",
    action="store_true",
    help="print the config and its cost, run one batch, and write nothing",
  )
  distributed.add_arguments(parser)
  args, overrides = arguments.parse(parser, argv)
  with distributed.started(args) as peers:
    status = start(args, overrides, peers)
  if status:
    # A signal that reached the workers too may have ended them with locks held
    # that an orderly exit waits for. What is left of them ends with this.
    sys.stdout.flush()
    os._exit(status)


def start(args, overrides, peers: Peers) -> int:
  """Checks the arguments, and trains. Returns the exit status."""
  experiment = config_lib.load(args.config, overrides, print)
  if peers.count > 1:
    plain = overrides_lib.flatten(config_lib.to_json(experiment))
    agreement.check_same(peers, agreement.describe_program(plain))
  window = None
  if args.profile is not None:
    with blaming("--profile"):
      window = profile.Window.parse(args.profile)
  if args.dry_run:
    dry_run.run(experiment, peers)
    return 0
  if args.workdir is None:
    raise ConfigError("--workdir is missing: give the run a directory")
  if not args.workdir:
    raise ConfigError("--workdir is empty: give the run a directory")
  if "://" in args.workdir:
    raise ConfigError(
      f"--workdir {args.workdir}: give a directory of this machine, or a "
      "mounted one"
    )
  return train(experiment, pathlib.Path(args.workdir), window, peers)


def train(
  experiment: Experiment,
  workdir: pathlib.Path,
  window: profile.Window | None = None,
  peers: Peers = ALONE,
) -> int:
  """Runs an experiment in a directory, or resumes the run that is there.

  Args:
    window: the steps to trace.
    peers: the processes that train together.

  Returns:
    Exit status: 0 when finished, 128 + n when stopped by signal n.
  """
  compilation.enable_persistent_cache()
  if workdir.exists() and not workdir.is_dir():
    raise ConfigError(f"--workdir {workdir} is a file: give a directory")
  resuming = peers.gather(bool(native.steps(workdir)))[0]

  def has_step(step):
    is_first = peers.index == 0
    return peers.gather(is_first and native.is_whole(workdir, step))[0]

  run = preparation.prepare(
    experiment, print, resuming=resuming, has_step=has_step, peers=peers
  )
  seen = overrides_lib.flatten({"data": run.record["data"]})
  agreement.check_same(peers, seen)
  if window is not None:
    with blaming("--profile"):
      window.check(run.total_steps)
  workdir.mkdir(parents=True, exist_ok=True)
  # First of all that writes: it keeps other runs out.
  checkpoints = native.Checkpoints(workdir, keep=experiment.keep, peers=peers)
  status = 0
  try:
    # Two steps' worth: one is written before another is removed.
    wanted = 2 * native.num_bytes(run.state_shapes)
    native.check_space(workdir, wanted, "room for two checkpoints")
    known = record.read(workdir).get("flops_per_s") if resuming else None
    known = peers.gather(known)[0]
    run.record["flops_per_s"] = run.matmul_rates(known or {}, print)
    if peers.index == 0:
      record.write(workdir, run.record)
    peers.gather(None)  # the others wait whether it is refused
    status = run_steps(run, workdir, checkpoints, window)
    return status
  finally:
    checkpoints.close()
    if status == 0:
      run.loader.close()


def run_steps(run, workdir: pathlib.Path, checkpoints, window) -> int:
  """The training loop. Returns the exit status, as `train` does."""
  experiment = run.experiment
  zero = run.zero_metrics()
  state, metrics = run_lib.start(run, checkpoints, print)
  first = int(state.step)
  watch = Watch(run, first, workdir, checkpoints)
  if first == run.total_steps and not watch.owes_evaluation(first):
    watch.line(f"{workdir} is finished: it has all {first} steps")
    return 0
  watch.open_writers()
  profiler = profile.Profiler(window, workdir / "profile", watch.line)
  profiler.begin(first)
  steps = {}
  if first < run.total_steps:  # else an evaluation is left, without a teacher
    run.check_memory(watch.line)
    steps = run.compile_steps(state, metrics, watch.line)
  programs = run.compile_evaluation(state.evaluated, watch.line)
  watch.pictures = run.compile_pictures(state.evaluated)
  # One process may compile for minutes longer than another; the devices'
  # libraries wait for half a minute until all have begun.
  run.peers.gather(None)
  in_flight = collections.deque()
  recent = collections.deque(maxlen=4)  # programs of the steps under way

  def save(done, position):
    watch.flush()  # no resumed run would write these rows again
    watch.check_finite(state.finite, done)
    arrays = {"state": run.stored(state), "running": metrics}
    with watch.split.part("checkpoint"):
      progress = {"loader": run.position(position)}
      checkpoints.save(done, arrays, progress, watch.best())

  done = first
  with (
    interruption_for(run.peers) as interruption,
    run.explaining_memory(recent),
    contextlib.closing(watch.split),
    profiler,
  ):
    if watch.owes_evaluation(first):
      watch.evaluate(first, programs, state.evaluated, interruption)
    watch.split.start()
    for i in range(first, run.total_steps):
      program = experiment.program(i)
      position = run.loader.get_state()  # before a batch that may not arrive
      try:
        with watch.split.waiting(), interruption.waiting():
          batch = next(run.loader)
        with watch.split.part("transfer"):
          batch = sharding.to_devices(batch, run.mesh)
      except (Fault, Interrupted):
        if run.peers.count > 1:
          raise  # the others are in this step already, which cannot end
        save(i, position)  # what was learnt so far is good
        if interruption.signal is None:
          raise
        break  # a fault too, where the signal reached the workers
      recent.append(program)
      start = time.perf_counter()
      with profiler.step(i):
        state, metrics = steps[program](state, metrics, batch)
      ending = watch.split.dispatched(start, metrics["loss"].count)
      watch.flush()  # earlier numbers, read while this step is under way
      in_flight.append(metrics)
      if len(in_flight) > 2:  # bounds the batches that wait on the devices
        jax.block_until_ready(in_flight.popleft())
      done = i + 1
      watch.advance(program)
      profiler.done(done, metrics)
      if run.is_due(experiment.log_every, done):
        watch.defer(done, metrics, state.finite, ending)
        metrics = zero
      evaluate = watch.owes_evaluation(done)
      if evaluate:
        watch.evaluate(done, programs, state.evaluated, interruption)
      stop = interruption.stops()
      if evaluate or stop or run.is_due(experiment.save_every, done):
        save(done, run.loader.get_state())
      if stop:
        break
    watch.flush()
    checkpoints.wait()
    watch.close()

  if done < run.total_steps or watch.owes_evaluation(done):
    watch.line(
      f"{interruption.signal.name}: saved after step {done} of "
      f"{run.total_steps}; the same command goes on"
    )
    return 128 + interruption.signal
  watch.line(f"finished; next: {experiment.task.used_by.format(run=workdir)}")
  return 0


class Watch:
  """Turns metrics into rows and lines, one step behind the devices."""

  def __init__(self, run, first: int, workdir: pathlib.Path, checkpoints):
    experiment = run.experiment
    self._run = run
    self._checkpoints = checkpoints
    self._workdir = workdir
    self._first = first
    self._is_first = run.peers.index == 0
    self._file, self._writers, scores = None, [], {}
    if self._is_first:  # the rows are one process's
      self._file = log.MetricsFile(workdir / "metrics.jsonl", first)
      self._writers = [self._file]
      scores = log.read_scores(workdir / "metrics.jsonl")
    self._scores = dict(run.peers.gather(list(scores.items()))[0])
    self._progress = log.Progress(first, run.total_steps)
    self._learning_rate = experiment.optimizer.schedule.build(
      experiment.optimizer.learning_rate, run.total_steps
    )
    self._pending = None
    self._logged = first
    self._programs = collections.Counter()  # of the steps since the last row
    self._named = {"train": len(run.loader.bad)}
    self.pictures = {}  # programs that draw, by setting
    self.split = time_split.TimeSplit()
    self.line = self._progress.line

  def open_writers(self) -> None:
    """Opens those of the config.

    Raises:
      ConfigError: one of them fails at the run's beginning.
    """
    if not self._is_first:
      return
    resumed = writers.Resumed(
      self._first, self._file.removed, log.is_evaluation
    )
    with blaming("config.writers"):
      self._writers += writers.open_all(
        *(self._run.experiment.writers, self._workdir, self._run.record),
        *(resumed, self.line),
      )

  def _write(self, done: int, values) -> None:
    for writer in self._writers:
      writer.write(done, values)

  def advance(self, program) -> None:
    """Counts a step."""
    self._progress.advance()
    self._programs[program] += 1

  def defer(
    self, done: int, metrics, finite: step.Finite, ending: time_split.Ending
  ) -> None:
    """Remembers metrics of a step that may still be under way."""
    # Copied: the next step takes the state's own.
    finite = jax.tree.map(jnp.copy, finite)
    overflowed = getattr(self._run.loader, "overflowed", 0)
    gflops = sum(
      n * self._run.numbers.gflops(p) for p, n in self._programs.items()
    )
    self._programs.clear()
    self._pending = done, metrics, finite, overflowed, gflops, ending

  def flush(self) -> None:
    """Writes what was deferred; waits for that step only.

    Raises:
      NonFiniteError: a step up to then was not finite.
    """
    if self._pending is None:
      return
    done, metrics, finite, overflowed, gflops, ending = self._pending
    self._pending = None
    self.check_finite(finite, done)
    values = self._run.numbers.values(metrics)
    values["learning_rate"] = float(self._learning_rate(done - 1))
    overflowed = sum(self._by_rows(overflowed))
    values |= self._bad_images("train", self._run.loader.bad, "bad_images")
    if overflowed:
      values["pack/overflowed_images"] = overflowed
    images = (done - self._logged) * values.get(
      "pack/images_per_step", self._run.experiment.batch_size
    )
    self._logged = done
    packed_cost = values.get(run_numbers.PACKED_COST, 0.0)
    gflops += run_numbers.TRAINING * images * packed_cost
    if (taken := self.split.take(ending)) is not None:
      seconds, shares = taken
      flops_per_s = 2 * 1e9 * gflops / seconds
      values["speed/images_per_s"] = images / seconds
      values["speed/tflops_per_s"] = flops_per_s / 1e12
      values["speed/mfu"] = flops_per_s / self._run.matmul_rate
      values |= shares
    self._write(done, values)
    self._progress.log(done, values)

  def check_finite(self, finite: step.Finite, done: int) -> None:
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
    self._checkpoints.wait()
    good = native.steps(self._workdir)
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

  def evaluate(self, done: int, programs, params, interruption) -> None:
    """Validation at every patch size; an interruption ends it without."""
    self.flush()
    with self.split.part("evaluation"):
      self._evaluate(done, programs, params, interruption)
      self._draw(done, params)

  def _evaluate(self, done, programs, params, interruption):
    start = time.perf_counter()
    run = self._run

    def on_devices(batch):
      interruption.check()
      return sharding.to_devices(batch, run.mesh)

    try:
      with run.explaining_evaluation():
        found = sweep.sweep(
          {s: p.of(params) for s, p in programs.items()},
          [run.validation],
          on_devices,
          gather=run.evaluation.gather,
        )
    except Interrupted:
      return  # the resumed run begins with it
    rows = run.evaluation.values(found)
    self._scores[done] = log.score(rows)
    self._progress.log(done, rows)
    bad = sweep.bad_images([run.validation])
    rows |= self._bad_images("validation", bad, "validation/bad_images")
    rows["speed/evaluation_s"] = time.perf_counter() - start
    self._write(done, rows)

  def _draw(self, done, params):
    for setting, program in self.pictures.items():
      images = jax.device_get(program.call(params, self._run.shown[setting]))
      if self._is_first:
        directory = self._workdir / "pictures"
        directory.mkdir(exist_ok=True)
        name = f"{done:08d}_{setting.short_name}.png"
        pictures.contact_sheet(images).save(directory / name)

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
    group, _ = sharding.process_rows(self._run.mesh)
    by_group = dict(self._run.peers.gather((group, own)))
    return [by_group[group] for group in sorted(by_group)]

  def best(self) -> int | None:
    """The step with the best score so far; the later of equals."""
    return log.best(self._scores)

  def close(self) -> None:
    self._progress.close()
    for writer in self._writers:
      writer.close()


if __name__ == "__main__":
  errors.run(main)
