"""A run's data as its process loads them: batches to train and evaluate on."""

import dataclasses
from collections.abc import Sequence

from flexivit_jax.config.experiment import Experiment
from flexivit_jax.core.errors import config_errors_at
from flexivit_jax.core.sizes import as_hw
from flexivit_jax.data.dataset import Dataset
from flexivit_jax.data.loading import bad_images
from flexivit_jax.data.loading import loader as loading_loader
from flexivit_jax.data.packing import loader as packing_loader
from flexivit_jax.data.packing import rows
from flexivit_jax.data.packing.cutter import Cutter
from flexivit_jax.devices.processes import ALONE, Processes
from flexivit_jax.evaluation import open_reading
from flexivit_jax.evaluation import reading as reading_lib
from flexivit_jax.models import vit
from flexivit_jax.tasks import distillation


def teacher_hw(experiment: Experiment) -> tuple[int, int] | None:
  """(height, width) of the images that a teacher is shown; None: there is
  none, or it sees the student's."""
  if not isinstance(experiment.task, distillation.Distill):
    return None
  size = experiment.task.teacher.image_size
  return None if size is None else as_hw(size)


def train_loader(
  experiment: Experiment, source, shard: tuple[int, int] = (0, 1)
):
  """This process's training batches: of images, or of packed rows.

  Args:
    shard: (index, count) of the rows that are this process's.
  """
  data, packing = experiment.train, experiment.packing
  options = {
    "batch_size": experiment.batch_size,
    "seed": experiment.seed,
    "workers": experiment.workers,
    "threads": experiment.threads,
    "shard": shard,
    "on_bad_image": experiment.on_bad_image,
    "read_parts": experiment.read_parts,
  }
  if packing is None:
    loader = loading_loader.TrainLoader(source, data.transforms, **options)
    shown = teacher_hw(experiment)
    if shown not in (None, loader.image_hw):
      with config_errors_at("config.task.teacher.image_size"):
        loader.show_teacher(shown)
    return loader
  cutter = Cutter(
    data.resolution,
    experiment.patch_size,
    packing.drop,
    packing.row_length,
    packing.too_long == "resize",
    experiment.model.position.largest_grid,
  )
  return packing_loader.PackLoader(
    source, data.transforms, cutter, packing, **options
  )


def eval_reading(
  data: Dataset,
  source,
  sizes: Sequence[tuple[int, int]],
  *,
  model: vit.ViT,
  packing: rows.Packing | None,
  batch_size: int,
  on_bad_image: bad_images.OnBadImage,
  shard: tuple[int, int] = (0, 1),
  peers: Processes = ALONE,
) -> reading_lib.Reading:
  """This process's evaluation of images as `data` shows them.

  Args:
    shard: (index, count) of the rows that are this process's.
    peers: the processes that evaluate together.
  """
  options = {
    "batch_size": batch_size,
    "shard": shard,
    "on_bad_image": on_bad_image,
  }
  if data.resolution is None:
    return open_reading.of_one_size(
      source, [data.transforms], lambda _: sizes, **options
    )
  views = [(data.resolution, packing)]
  reading = open_reading.packed(
    source, data.transforms, views, sizes, model=model, **options
  )
  if peers.count == 1:
    return reading
  loader = reading_lib.Lockstep(reading.loader, peers)
  return dataclasses.replace(reading, loader=loader)
