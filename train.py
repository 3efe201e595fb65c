"""Trains a model.

  python train.py --config configs/flexivit_digits.py --workdir runs/flexivit

The same command again resumes from the last checkpoint. Every value of the
config can be changed on the command line: --config.batch_size=32

On SIGTERM, Ctrl-C or SIGHUP the run saves after the step under way and ends
with status 143, 130 or 129; a second one ends it at once.

On several machines: docs/many_machines.md
"""

import os
import pathlib
import sys

from flexivit_jax.checkpoints import run_store
from flexivit_jax.cli import arguments, distributed, errors
from flexivit_jax.config import build
from flexivit_jax.config import overrides as overrides_lib
from flexivit_jax.config.experiment import Experiment
from flexivit_jax.core.errors import ConfigError, Fault, config_errors_at
from flexivit_jax.devices import compilation, placement, processes
from flexivit_jax.devices.processes import ALONE, Processes
from flexivit_jax.run import dry_run, memory_report, profile
from flexivit_jax.run import open as open_lib
from flexivit_jax.run.interruption import Interrupted, interruption_for
from flexivit_jax.run.state import restore_or_init
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
  if not args.workdir or "://" in args.workdir:
    raise ConfigError(
      f"--workdir {args.workdir or 'is missing'}: give the run a directory of "
      "this machine, or a mounted one"
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
  # Opens and checks everything; compiles nothing.
  compilation.enable_persistent_cache()
  run = open_lib.open_in(experiment, workdir, print, window, peers)
  status = 1
  # First of all that writes: it keeps other runs out.
  store = run_store.Checkpoints(workdir, keep=experiment.keep, peers=peers)
  try:
    run.write_record(workdir, print)
    status = run_steps(run, workdir, store, window)
    return status
  finally:
    store.close()
    if status == 0:
      run.loader.close()


def run_steps(run, workdir: pathlib.Path, store, window) -> int:
  """The training loop. Returns the exit status, as `train` does."""
  experiment = run.experiment
  state, metrics = restore_or_init(run, store, print)
  first, done = int(state.step), int(state.step)
  with Watch(run, first, workdir, store, window) as watch:
    if first == run.total_steps and not watch.owes_evaluation(first):
      watch.line(f"{workdir} is finished: it has all {first} steps")
      return 0
    # One program for each patch size; nothing is traced after this.
    steps = {}
    if first < run.total_steps:  # else an evaluation is left, without a teacher
      memory_report.check(run, watch.line)
      steps = run.compile_steps(state, metrics, watch.line)
    watch.open(state.evaluated)
    # One process may compile for minutes longer than another; the devices'
    # libraries wait for half a minute until all have begun.
    run.peers.gather(None)
    with (
      interruption_for(run.peers) as interruption,
      memory_report.explaining(run, watch.recent),
    ):
      if watch.owes_evaluation(first):  # a run that was stopped before it
        watch.evaluate(first, state.evaluated, interruption)
      zero = run.zero_metrics()
      watch.clock.start()
      for i in range(first, run.total_steps):
        size = experiment.program(i)
        position = run.loader.get_state()  # before a batch that may not come
        try:
          with watch.waiting(), interruption.waiting():
            batch = next(run.loader)
        except (Fault, Interrupted):
          if run.peers.count > 1:
            raise  # the others are in this step already, which cannot end
          watch.save(i, state, metrics, position)  # good so far
          if interruption.signal is None:
            raise
          break  # a fault too, where the signal reached the workers
        with watch.step(i, size):
          batch = placement.to_devices(batch, run.mesh)
          state, metrics = steps[size](state, metrics, batch)
        # Dispatched, not finished: an earlier step is read meanwhile.
        done = i + 1
        watch.stepped(done, size, metrics)
        if run.is_due(experiment.log_every, done):
          watch.defer(done, metrics, state.finite)
          metrics = zero
        evaluated = watch.owes_evaluation(done)
        if evaluated:
          watch.evaluate(done, state.evaluated, interruption)
        # A signal reaches one process; all agree on the same last step.
        stopping = interruption.stops()
        if evaluated or stopping or run.is_due(experiment.save_every, done):
          watch.save(done, state, metrics, run.loader.get_state())
        if stopping:
          break
      watch.flush()
      store.wait()
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
