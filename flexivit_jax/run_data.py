"""A run's data as its process loads them: batches to train and evaluate on."""

import dataclasses
from collections.abc import Sequence

from flexivit_jax.core.patch_size import as_hw
from flexivit_jax.core.peers import ALONE, Peers
from flexivit_jax.data import bad_images, pack_loader, packs
from flexivit_jax.data import loader as loader_lib
from flexivit_jax.data.cutting import Cutter
from flexivit_jax.evaluation import lockstep, readings, sweep
from flexivit_jax.experiment import Data, Experiment, blaming
from flexivit_jax.nn import vit
from flexivit_jax.tasks import distill


def teacher_hw(experiment: Experiment) -> tuple[int, int] | None:
  """(height, width) of the images that a teacher is shown; None: there is
  none, or it sees the student's."""
  if not isinstance(experiment.task, distill.Distill):
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
    loader = loader_lib.TrainLoader(source, data.transforms, **options)
    shown = teacher_hw(experiment)
    if shown not in (None, loader.image_hw):
      with blaming("config.task.teacher.image_size"):
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
  return pack_loader.PackLoader(
    source, data.transforms, cutter, packing, **options
  )


def eval_reading(
  data: Data,
  source,
  sizes: Sequence[tuple[int, int]],
  *,
  model: vit.ViT,
  packing: packs.Packing | None,
  batch_size: int,
  on_bad_image: bad_images.OnBadImage,
  shard: tuple[int, int] = (0, 1),
  peers: Peers = ALONE,
) -> sweep.Reading:
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
    return readings.of_one_size(
      source, [data.transforms], lambda _: sizes, **options
    )
  views = [(data.resolution, packing)]
  reading = readings.packed(
    source, data.transforms, views, sizes, model=model, **options
  )
  if peers.count == 1:
    return reading
  loader = lockstep.Lockstep(reading.loader, peers)
  return dataclasses.replace(reading, loader=loader)
