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
import os
import pathlib
import sys
import time

import jax

from flexivit_jax.checkpoints import run_directory, run_record, run_store
from flexivit_jax.cli import arguments, distributed, errors
from flexivit_jax.config import build
from flexivit_jax.config import overrides as overrides_lib
from flexivit_jax.config.experiment import Experiment
from flexivit_jax.core.errors import ConfigError, Fault, config_errors_at
from flexivit_jax.devices import compilation, placement, processes
from flexivit_jax.devices.processes import ALONE, Processes
from flexivit_jax.run import dry_run, profile
from flexivit_jax.run import open as open_lib
from flexivit_jax.run import programs as programs_lib
from flexivit_jax.run.interruption import Interrupted, interruption_for
from flexivit_jax.run.watch import Watch


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


def start(args, overrides, peers: Processes) -> int:
  """Checks the arguments, and trains. Returns the exit status."""
  experiment = build.load(args.config, overrides, print)
  if peers.count > 1:
    plain = overrides_lib.flatten(build.to_json(experiment))
    processes.check_same(peers, processes.describe_program(plain))
  window = None
  if args.profile is not None:
    with config_errors_at("--profile"):
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
  peers: Processes = ALONE,
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
  resuming = peers.gather(bool(run_directory.steps(workdir)))[0]

  def has_step(step):
    is_first = peers.index == 0
    return peers.gather(is_first and run_directory.is_whole(workdir, step))[0]

  run = open_lib.prepare(
    experiment, print, resuming=resuming, has_step=has_step, peers=peers
  )
  seen = overrides_lib.flatten({"data": run.record["data"]})
  processes.check_same(peers, seen)
  if window is not None:
    with config_errors_at("--profile"):
      window.check(run.total_steps)
  workdir.mkdir(parents=True, exist_ok=True)
  # First of all that writes: it keeps other runs out.
  checkpoints = run_store.Checkpoints(
    workdir, keep=experiment.keep, peers=peers
  )
  status = 0
  try:
    # Two steps' worth: one is written before another is removed.
    wanted = 2 * run_directory.num_bytes(run.state_shapes)
    run_directory.check_space(workdir, wanted, "room for two checkpoints")
    known = run_record.read(workdir).get("flops_per_s") if resuming else None
    known = peers.gather(known)[0]
    run.record["flops_per_s"] = run.matmul_rates(known or {}, print)
    if peers.index == 0:
      run_record.write(workdir, run.record)
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
  state, metrics = programs_lib.start(run, checkpoints, print)
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
    arrays = {"state": state, "running": metrics}
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
          batch = placement.to_devices(batch, run.mesh)
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


if __name__ == "__main__":
  errors.run(main)
