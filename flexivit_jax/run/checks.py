"""Checks of a run that need its devices or its data."""

import functools

import numpy as np
from jax.sharding import Mesh

from flexivit_jax.config.experiment import Experiment
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.data.pixels import decode
from flexivit_jax.data.sources.source import dtype_of
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.models import cost, shared_rows
from flexivit_jax.nn.stems import stem
from flexivit_jax.tasks.diffusion import Diffusion


def check_devices(experiment: Experiment, mesh: Mesh) -> None:
  """Refuses models, rows and batches that the devices could not share.

  Raises:
    ConfigError: naming the key, and what would work.
  """
  with config_errors_at("config.model"):
    shared_rows.check_model(experiment.model, parts=mesh.shape["seq"])
  if experiment.packing is not None:  # before its images are looked at
    with config_errors_at("config.model"):
      stem.check_packing(experiment.model.stem)
    length = experiment.packing.row_length
    _check_length(experiment, mesh, "config.packing.row_length", length)
  with config_errors_at("config.batch_size"):
    mesh_lib.check_batch_size(experiment.batch_size, mesh)
  with config_errors_at("config.accumulate"):
    mesh_lib.check_accumulation(
      experiment.accumulate, experiment.batch_size, mesh
    )


def _check_length(experiment: Experiment, mesh, place, length):
  with config_errors_at(place):
    shared_rows.check_length(
      experiment.model, length=length, parts=mesh.shape["seq"]
    )


def check_arrays(experiment: Experiment, source) -> None:
  """Refuses another number of channels; and what takes pictures alone, of data
  that are other arrays."""
  pictures = dtype_of(source) == np.uint8
  channels = decode.CHANNELS if pictures else source.image(0).shape[-1]
  if channels != experiment.model.channels:
    what = "pictures" if pictures else "arrays"
    raise ConfigError(
      f"config.model.channels is {experiment.model.channels}, and the {what} "
      f"of config.train have {channels}: give config.model.channels={channels}"
    )
  if pictures:
    return
  for name in ("validation", "test"):
    data = getattr(experiment, name)
    scale = getattr(data and data.source, "scale", None)
    wanted = experiment.train.source.scale
    if scale not in (None, wanted):
      raise ConfigError(
        f"config.{name}.source.scale is {scale:g}, and that of config.train "
        f"{wanted:g}: give both the same"
      )
  for name in ("packing", "mix"):
    if getattr(experiment, name):
      raise ConfigError(
        f"config.{name} is for pictures, and config.train has arrays of "
        "floats: leave it out"
      )
  task = experiment.task
  if isinstance(task, Diffusion) and task.sampler.clip:
    low, high = float(source.pixels.min()), float(source.pixels.max())
    if not -1 <= low <= high <= 1:
      raise ConfigError(
        f"config.task.sampler.clip keeps samples in [-1, 1], and the arrays of "
        f"config.train lie in [{low:.3g}, {high:.3g}]: give "
        "config.task.sampler.clip=False, or a source.scale to each data"
      )


def check_shared_rows(experiment: Experiment, mesh, loader, validation):
  """Refuses rows of patches that the devices could not share."""
  check = functools.partial(_check_length, experiment, mesh)
  if experiment.packing is None:
    for size in experiment.patch_size.sizes:
      place = "config.patch_size {}x{}".format(*size)
      check(place, cost.tokens(loader.image_hw, size))
  if validation is None:
    return
  for view, settings in enumerate(validation.views):
    for setting in settings:
      if validation.is_packed(view):
        length = validation.loader.example(view).inputs.patches.shape[1]
      else:
        length = cost.tokens(setting.image_hw, setting.patch_hw)
      check("config.validation", length)


def check_tiling(experiment: Experiment, image_hw) -> None:
  if experiment.packing is None:
    experiment.check_patch_sizes(image_hw)
    return
  try:
    experiment.check_patch_sizes(image_hw)
  except ConfigError as e:
    text = str(e).removeprefix("config.patch_size: ")
    raise ConfigError(
      "config.validation has no resolution, so its images are cut as they are, "
      f"and {text}; or give it a resolution, as config.train has"
    ) from e
