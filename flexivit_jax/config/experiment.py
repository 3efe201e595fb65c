"""An experiment: model, task, data, optimiser and schedule, as one object."""

import dataclasses
import math
import re

from flexivit_jax.config import writer_specs
from flexivit_jax.core import patch_size as patch_size_lib
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.data.dataset import Dataset
from flexivit_jax.data.loading import bad_images
from flexivit_jax.data.loading.shards import MAX_PARTS
from flexivit_jax.data.packing import rows
from flexivit_jax.data.pixels import preprocessing as preprocessing_lib
from flexivit_jax.data.sources import source
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.devices import parameter_sharding
from flexivit_jax.models import vit
from flexivit_jax.models.backbone import check_patch_size
from flexivit_jax.tasks import classification
from flexivit_jax.tasks.task import Task
from flexivit_jax.training import mixing
from flexivit_jax.training import optimizer as optimizer_lib


@dataclasses.dataclass(frozen=True)
class InitFrom:
  """Checkpoint whose parameters a run starts from.

  Attributes:
    checkpoint: a path or name that `flexivit_jax.load` takes.
    dont_load: patterns (`re.fullmatch`) of parameters that start afresh, as in
      docs/parameters.md: ("head/.*",) for another number of classes.
    step: of a run's checkpoint; None: the best.
  """

  checkpoint: str
  dont_load: tuple[str, ...] = ()
  step: int | None = None

  def __post_init__(self):
    for pattern in self.dont_load:
      try:
        re.compile(pattern)
      except re.error as e:
        raise ValueError(
          f"dont_load has {pattern!r}, not a pattern ({e}). Set "
          "dont_load=('head/.*',)"
        ) from e


# Smallest and largest value of the whole numbers in an experiment. A step is
# an int32; a seed of 2^32 would draw as 0 does; of two checkpoints one survives
# damage to the other.
BOUNDS = {
  "batch_size": (1, 2**24),
  "accumulate": (1, 2**24),
  "eval_batch_size": (1, 2**24),
  "total_steps": (1, 2**31 - 1),
  "eval_every": (1, 2**31 - 1),
  "save_every": (1, 2**31 - 1),
  "log_every": (1, 2**31 - 1),
  "keep": (2, 2**31 - 1),
  "seed": (0, 2**32 - 1),
  "workers": (0, 1024),
  "threads": (0, 1024),
  "read_parts": (1, MAX_PARTS),
}
OPEN_BOUNDS = {"total_epochs": (0, math.inf), "ema": (0, 1)}


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A run: model, task, data, optimiser and schedule.

  Attributes:
    train: data to train on.
    validation: data to evaluate on during training, and to choose the best
      checkpoint by; None: no evaluation.
    test: data for evaluate.py; training looks at its class names alone.
    batch_size: images per step, or rows where they are packed, over all
      devices.
    packing: how images share rows, for data that has a resolution.
    mix: ways to mix the images of a batch; of several, each step draws one.
    init_from: a checkpoint to start from; None: random parameters.
    total_steps, total_epochs: length of training; give one of them.
    accumulate: into how many microbatches, one after another, a batch is cut:
      less memory for the same step.
    ema: decay of a moving average of the parameters, which is then what is
      evaluated; None: no average.
    mesh: how the devices share rows, and the tokens of each.
    sharding: of parameters and optimiser state over the devices.
    seed: of parameters, data order, augmentation, patch sizes and dropout.
    eval_batch_size: images or rows per evaluation batch, over all devices.
    eval_every, save_every, log_every: in steps. A save follows each
      evaluation too.
    keep: how many of the latest checkpoints to keep, besides the best.
    workers: processes that load data; 0 loads in the main process.
    threads: that load data in each process; 0 loads when asked.
    on_bad_image: what to do about images that cannot be decoded.
    preprocessing: how the images of all three data are decoded and resized.
    read_parts: parts of the training data that are shuffled apart. With a
      multiple of the number of processes each reads its own files alone.
    writers: of metrics, beside metrics.jsonl.
  """

  model: vit.ViT
  patch_size: patch_size_lib.PatchSizePolicy
  optimizer: optimizer_lib.Optimizer
  train: Dataset
  batch_size: int
  packing: rows.Packing | None = None
  validation: Dataset | None = None
  test: Dataset | None = None
  task: Task = classification.Supervised()
  mix: tuple[mixing.Mix, ...] = ()
  init_from: InitFrom | None = None
  total_steps: int | None = None
  total_epochs: float | None = None
  accumulate: int = 1
  ema: float | None = None
  mesh: mesh_lib.MeshSpec = mesh_lib.MeshSpec()
  sharding: parameter_sharding.ParameterSharding = (
    parameter_sharding.Replicated()
  )
  seed: int = 0
  eval_batch_size: int = 256
  eval_every: int = 1000
  save_every: int = 1000
  log_every: int = 50
  keep: int = 2
  workers: int = 0
  threads: int = 0
  on_bad_image: bad_images.OnBadImage = bad_images.ERROR
  preprocessing: preprocessing_lib.Mode = preprocessing_lib.ANTIALIAS
  read_parts: int = 1
  writers: tuple[writer_specs.WriterSpec, ...] = ()

  def __post_init__(self):
    if (self.total_steps is None) == (self.total_epochs is None):
      raise ValueError(
        "give either total_steps or total_epochs. Set the other to None"
      )
    for name, (low, high) in BOUNDS.items():
      value = getattr(self, name)
      if value is not None and not low <= value <= high:
        raise ConfigError(f"config.{name} is {value}: give {low} to {high}")
    for name, (low, high) in OPEN_BOUNDS.items():
      value = getattr(self, name)
      if value is not None and not low < value < high:
        raise ConfigError(
          f"config.{name} is {value}: give more than {low} and less than {high}"
        )
    for i, mix in enumerate(self.mix):
      if mix.images > self.batch_size:
        raise ConfigError(
          f"config.mix[{i}] makes one of {mix.images} images, but "
          f"config.batch_size is {self.batch_size}"
        )
    self._check_packing()
    if self.mix and not self.task.classifies:
      raise ValueError("mix needs a task that classifies. Set mix=()")
    self.task.check_run(
      self.mesh, self.patch_size.sizes, packed=self.packing is not None
    )

  def _check_packing(self):
    if self.packing is None:
      for name in ("train", "validation", "test"):
        data = getattr(self, name)
        if data is not None and data.resolution is not None:
          raise ValueError(
            f"{name}.resolution needs config.packing. Set "
            "packing=dict(row_length=256, max_images=16)"
          )
      if isinstance(self.patch_size, patch_size_lib.BudgetPatchSize):
        self.patch_size(0, 0)  # says why not
    elif self.mix:
      raise ValueError("mix and packing exclude each other. Set mix=()")
    elif self.preprocessing != preprocessing_lib.ANTIALIAS:
      raise ValueError(
        'preprocessing "bv_compat" is for images of one size, not packed ones. '
        "Set preprocessing=antialias"
      )
    elif self.train.resolution is None:
      raise ValueError(
        "packing needs train.resolution. Set train.resolution=native"
      )
    elif isinstance(self.patch_size, patch_size_lib.ScheduledPatchSize):
      self.patch_size.for_image(None, None)  # says why not

  def program(self, step: int) -> tuple[int, int] | None:
    """Patch size of a step's program; None for packed images, which differ."""
    return None if self.packing else self.patch_size(step, self.seed)

  @property
  def programs(self) -> tuple[tuple[int, int] | None, ...]:
    """All values of `program`."""
    return (None,) if self.packing else self.patch_size.sizes

  def open(self, data: Dataset) -> source.Source:
    """Opens data in the mode of this experiment. Raises: as `source.open`."""
    return preprocessing_lib.open_source(data.source, self.preprocessing)

  def num_steps(
    self, num_examples: int, images_per_step: float | None = None
  ) -> int:
    """Length of training in steps, on this many examples.

    Args:
      images_per_step: mean of packed rows; None: the batch size.
    """
    images_per_step = images_per_step or self.batch_size
    if self.total_steps is not None:
      steps = self.total_steps
    else:
      steps = round(self.total_epochs * num_examples / images_per_step)
    if steps < 1:
      raise ConfigError(
        f"{self.total_epochs} epochs of {num_examples} images at batch size "
        f"{images_per_step:.4g} are less than a step: raise total_epochs"
      )
    return steps

  def for_classes(self, classes: tuple[str, ...]) -> "Experiment":
    """Sets model and task to these classes. Raises: as `Task.for_classes`."""
    try:
      model, task = self.task.for_classes(self.model, classes)
    except ValueError as e:  # says itself where
      raise ConfigError(str(e)) from e
    return dataclasses.replace(self, model=model, task=task)

  def check_patch_sizes(self, image_hw: tuple[int, int]) -> None:
    """Refuses patch sizes that the images or the model's positions exclude.

    Raises:
      ConfigError: naming the sizes that do tile, or the largest grid.
    """
    for size in self.patch_size.sizes:
      with config_errors_at("config.patch_size"):
        check_patch_size(self.model, image_hw, size)
        self.task.check_grid(image_hw, size)
