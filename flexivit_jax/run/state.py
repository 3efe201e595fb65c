"""Training state of a run: initialised or restored."""

from collections.abc import Callable

import flax.traverse_util
import jax

from flexivit_jax.checkpoints.run_store import Checkpoints
from flexivit_jax.config.experiment import Experiment
from flexivit_jax.core.errors import config_errors_at
from flexivit_jax.training import state


def init_state(experiment: Experiment, tx, inputs, initial) -> state.TrainState:
  params = init_params(experiment, inputs)
  flat = flax.traverse_util.flatten_dict(params, sep="/")
  params = flax.traverse_util.unflatten_dict({**flat, **initial}, sep="/")
  return begin(experiment, tx, params)


def init_params(experiment: Experiment, inputs):
  key, size = jax.random.key(experiment.seed), experiment.patch_size.sizes[0]
  return experiment.task.init(experiment.model, key, inputs, size)


def begin(experiment: Experiment, tx, params) -> state.TrainState:
  ema = experiment.ema is not None
  return state.init_state(params, tx, experiment.seed, ema=ema)


def restore_or_init(run, store: Checkpoints, report: Callable[[str], None]):
  """State and running metrics to go on from, on the devices; places the loader.

  Args:
    run: a `programs.Run`.
  """
  fresh, metrics = run.init_state(), run.zero_metrics()
  with config_errors_at("cannot resume"):
    restored = store.restore({"state": fresh, "running": metrics}, report)
  if restored is None:
    return fresh, metrics
  with config_errors_at(f"the checkpoint of step {restored.step}"):
    run.loader.set_state(restored.progress["loader"])
  report(f"resuming after step {restored.step} of {run.total_steps}")
  return restored.arrays["state"], restored.arrays["running"]
