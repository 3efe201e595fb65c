"""Entry points of the package that the golden records are taken through.

Nothing else under tests/golden_records imports the package, so that a move of
its modules changes this file alone.
"""

import pathlib

import jax
import numpy as np

import train
from flexivit_jax.checkpoints import model as model_lib
from flexivit_jax.checkpoints import (
  origin,
  run_directory,
  run_metrics,
  run_store,
)
from flexivit_jax.config import build, overrides
from flexivit_jax.core.tokens import Tokens
from flexivit_jax.devices import mesh, placement
from flexivit_jax.run import open as open_lib

PROGRESS = run_store.PROGRESS
read_rows = run_metrics.read_rows

# Keys of a recorded config.json that a newer version reads and does not write.
RETIRED_KEYS = ("model.distribution.gather", "mesh.double_averaging")


def experiment(path, changes):
  return build.load(path, changes)


def from_json(plain):
  return build.from_plain(plain)


def to_json(experiment):
  return build.to_json(experiment)


def flat_json(plain) -> dict:
  """Values of a config.json by their keys, joined by dots."""
  return overrides.flatten(plain)


def open_run(experiment):
  """Data, devices and optimiser; compiles nothing."""
  return open_lib.prepare(experiment, lambda line: None)


def train_main(*arguments) -> None:
  train.main([str(x) for x in arguments])


def checkpoint_directory(workdir, step: int) -> pathlib.Path:
  return pathlib.Path(workdir) / run_directory.DIRECTORY / str(step)


def saved_parameters(workdir, step: int) -> dict[str, np.ndarray]:
  """Parameters of a run's checkpoint by path."""
  params, _ = run_store.load_params(pathlib.Path(workdir), step)
  return by_path(params)


def initial_parameters(run) -> dict[str, np.ndarray]:
  """Parameters before the first step by path."""
  return by_path(run.init_state().params)


def by_path(tree) -> dict[str, np.ndarray]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x)
    for path, x in leaves
  }


def as_tree(arrays):
  tree = {}
  for path, x in arrays.items():
    *parents, last = path.split("/")
    node = tree
    for name in parents:
      node = node.setdefault(name, {})
    node[last] = x
  return tree


def next_batches(run, count: int):
  """That many training batches, and the loader's state after them."""
  batches = [next(run.loader) for _ in range(count)]
  return batches, run.loader.get_state()


def batch_arrays(batch) -> dict[str, np.ndarray]:
  """Arrays of a batch by a name that no change of its types changes."""
  found = {name: getattr(batch, name) for name in ("labels", "index")}
  if not isinstance(batch.inputs, Tokens):
    found["pixels"] = batch.inputs
  else:
    tokens = batch.inputs
    found |= {"pixels": tokens.patches, "coords": tokens.coords}
    found |= {"grid_hw": tokens.grid_hw, "segments": tokens.segments}
    if tokens.size_index is not None:
      found["size_index"] = tokens.size_index
  return {name: np.asarray(x) for name, x in found.items()}


def loss(run, params, batch) -> dict[str, float]:
  """Measured means of one batch at the patch size of the first step."""
  read = {} if run.teacher is None else {"teacher": run.teacher}
  cut = run.experiment.program(0)

  def measure(params, batch, read):
    return run.measure(params, batch, patch_hw=cut, **read)

  batch = placement.to_devices(batch, run.mesh)
  params = placement.replicate(as_tree(params), run.mesh)
  measured = jax.jit(mesh.on_mesh(measure, run.mesh))(params, batch, read)
  return {
    name: float(mean.total) / float(mean.count)
    for name, mean in measured.items()
    if np.ndim(mean.total) == 0
  }


def outputs(run, params, images, patch_size) -> dict[str, np.ndarray]:
  """Features, and logits if any, of images; of a list packed into rows."""
  own = run.experiment.task.own_parameters
  params = {k: x for k, x in params.items() if k.split("/")[0] not in own}
  spec = origin.Spec("golden record", "nowhere")
  model = model_lib.LoadedModel(run.experiment.model, as_tree(params), spec)
  found = model.outputs(images, patch_size)
  return {k: np.asarray(found[k]) for k in ("pooled", "logits") if k in found}
