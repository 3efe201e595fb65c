"""Training state of a run: initialised or restored."""

import flax.traverse_util
import jax

from flexivit_jax.config.experiment import Experiment
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
