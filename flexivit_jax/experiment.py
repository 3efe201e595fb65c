"""An experiment: model, task, data, optimiser and schedule, as one object."""

import contextlib
import dataclasses
import math
import re

from flexivit_jax.core import patch_size
from flexivit_jax.core.faults import Fault
from flexivit_jax.core.resolution import Resolution
from flexivit_jax.core.text import listed
from flexivit_jax.core.tokens import grid_shape
from flexivit_jax.data import augment, bad_images, modes, packs, sources
from flexivit_jax.data.parts import MAX_PARTS
from flexivit_jax.nn import conditioning, positions, vit
from flexivit_jax.tasks import supervised
from flexivit_jax.tasks.task import Task
from flexivit_jax.training import (
  mixing,
  optimizer,
  parameter_sharding,
  sharding,
)
from flexivit_jax.training import writers as writers_lib


class ConfigError(ValueError):
  """Something that the user wrote in a config or on the command line."""


@contextlib.contextmanager
def blaming(place: str):
  """Turns a ValueError into a ConfigError that names a place.

  Args:
    place: what the user wrote that led to it: "config.train", "--data".
  """
  try:
    yield
  except (ConfigError, Fault):
    raise
  except ValueError as e:
    raise ConfigError(f"{place}: {e}") from e


@dataclasses.dataclass(frozen=True)
class Data:
  """A source and how its images become the model's.

  Attributes:
    transforms: applied in order; without a resolution, all images must leave
      them at one size.
    resolution: the size of each image, which may then have any aspect ratio:
      images are packed into rows. None: a batch of images of one size.
  """

  source: sources.SourceSpec
  transforms: tuple[augment.Transform, ...] = ()
  resolution: Resolution | None = None


@dataclasses.dataclass(frozen=True)
class InitFrom:
  """What a run's parameters start from, instead of at random.

  Attributes:
    checkpoint: anything that `flexivit_jax.load` takes.
    dont_load: patterns (`re.fullmatch`) of parameters that start afresh, as in
      docs/parameters.md: ("head/.*",) for another number of classes.
    step: of a run: which checkpoint; None: the best.
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
          f"dont_load has {pattern!r}, which is no pattern ({e}): give "
          "'head/.*', say"
        ) from e


# Smallest and largest value of the whole numbers in an experiment. A step is
# an int32; a seed of 2^32 would draw what 0 draws.
BOUNDS = {
  "batch_size": (1, 2**24),
  "accumulate": (1, 2**24),
  "eval_batch_size": (1, 2**24),
  "total_steps": (1, 2**31 - 1),
  "eval_every": (1, 2**31 - 1),
  "save_every": (1, 2**31 - 1),
  "log_every": (1, 2**31 - 1),
  "seed": (0, 2**32 - 1),
  "workers": (0, 1024),
  "threads": (0, 1024),
  "read_parts": (1, MAX_PARTS),
}


@dataclasses.dataclass(frozen=True)
class Experiment:
  """All that a run is made of.

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
    read_parts: parts of the training data, each of neighbouring files, that are
      shuffled apart. With the number of processes, or a multiple of it, each
      process reads its own files alone; 1: from all of them.
    writers: of metrics, beside metrics.jsonl.
  """

  model: vit.ViT
  patch_size: patch_size.PatchSizePolicy
  optimizer: optimizer.Optimizer
  train: Data
  batch_size: int
  packing: packs.Packing | None = None
  validation: Data | None = None
  test: Data | None = None
  task: Task = supervised.Supervised()
  mix: tuple[mixing.Mix, ...] = ()
  init_from: InitFrom | None = None
  total_steps: int | None = None
  total_epochs: float | None = None
  accumulate: int = 1
  ema: float | None = None
  mesh: sharding.MeshSpec = sharding.MeshSpec()
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
  preprocessing: modes.Mode = modes.ANTIALIAS
  read_parts: int = 1
  writers: tuple[writers_lib.WriterSpec, ...] = ()

  def __post_init__(self):
    if (self.total_steps is None) == (self.total_epochs is None):
      raise ValueError(
        "give either total_steps or total_epochs, and None for the other: "
        "--config.total_steps=None"
      )
    if self.accumulate < 1:
      valid = [
        n for n in range(1, self.batch_size + 1) if self.batch_size % n == 0
      ]
      raise ConfigError(
        f"config.accumulate is {self.accumulate}: give a number that divides "
        f"config.batch_size, {listed(valid)}"
      )
    for name, (low, high) in BOUNDS.items():
      value = getattr(self, name)
      if value is not None and not low <= value <= high:
        raise ConfigError(f"config.{name} is {value}: give {low} to {high}")
    if self.total_epochs is not None and not self.total_epochs > 0:
      raise ConfigError(
        f"config.total_epochs is {self.total_epochs}: give more than 0"
      )
    if self.ema is not None and not 0 < self.ema < 1:
      raise ConfigError(
        f"config.ema is {self.ema}: give more than 0 and less than 1, such as "
        "0.9999"
      )
    if self.keep < 2:
      raise ConfigError(
        f"config.keep is {self.keep}: keep at least 2 checkpoints, so that one "
        "survives damage to the other"
      )
    if self.mesh.double_averaging:
      self._check_double_averaging()
    for i, mix in enumerate(self.mix):
      if mix.images > self.batch_size:
        raise ConfigError(
          f"config.mix[{i}] makes one of {mix.images} images, but "
          f"config.batch_size is {self.batch_size}: an image would be mixed "
          "with itself"
        )
    if self.packing is None:
      for name in ("train", "validation", "test"):
        data = getattr(self, name)
        if data is not None and data.resolution is not None:
          raise ValueError(
            f"{name}.resolution needs config.packing, the rows that images of "
            "any size share: packing=dict(row_length=256, max_images=16)"
          )
      if isinstance(self.patch_size, patch_size.BudgetPatchSize):
        self.patch_size(0, 0)  # says why not
    elif self.mix:
      raise ValueError(
        "mix and packing: images are mixed before they are cut into patches, "
        "so give mix=()"
      )
    elif self.preprocessing != modes.ANTIALIAS:
      raise ValueError(
        'preprocessing is "bv_compat", which is for images of one size: leave '
        'packing and the resolutions out, or take "antialias"'
      )
    elif self.train.resolution is None:
      raise ValueError(
        "packing needs train.resolution, the size of each image: "
        'resolution=dict(name="native")'
      )
    elif isinstance(self.patch_size, patch_size.ScheduledPatchSize):
      self.patch_size.for_image(None, None)  # says why not

    if self.mix and not self.task.classifies:
      raise ValueError(
        "mix is for tasks that classify, whose targets are mixed with the "
        "images: give mix=()"
      )
    self.task.check_run(
      self.mesh, self.patch_size.sizes, packed=self.packing is not None
    )

  def _check_double_averaging(self):
    """Refuses what one `shard_map` round the whole model does not do."""
    problem = None
    if self.sharding != parameter_sharding.Replicated():
      problem = 'parameters that are shared by fsdp: take sharding="replicated"'
    elif isinstance(self.model.conditioning, conditioning.AdaLNZero):
      problem = "conditioned blocks"
    elif self.model.standardize:
      problem = "images standardised by all their patches: give image_mean"
    if problem:
      raise ValueError(
        f"mesh.double_averaging does not go with {problem}, or "
        "mesh.double_averaging=False"
      )

  def program(self, step: int) -> tuple[int, int] | None:
    """The patch size that a step's program is compiled for; None: any, packed.

    A packed image has a patch size of its own, which is data.
    """
    return None if self.packing else self.patch_size(step, self.seed)

  @property
  def programs(self) -> tuple[tuple[int, int] | None, ...]:
    """All that `program` can return."""
    return (None,) if self.packing else self.patch_size.sizes

  def open(self, data: Data) -> sources.Source:
    """A source of this experiment, in its mode.

    Raises: as `source.open`.
    """
    return modes.open_source(data.source, self.preprocessing)

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
        f"{images_per_step:.4g} are no step: raise total_epochs or total_steps"
      )
    if steps > BOUNDS["total_steps"][1]:
      raise ConfigError(
        f"{self.total_epochs} epochs of {num_examples} images are {steps} "
        f"steps: give at most {BOUNDS['total_steps'][1]}"
      )
    return steps

  def for_classes(self, classes: tuple[str, ...]) -> "Experiment":
    """With model and task for these classes.

    Raises:
      ConfigError: as `Task.for_classes`.
    """
    try:
      model, task = self.task.for_classes(self.model, classes)
    except ValueError as e:  # says itself where
      raise ConfigError(str(e)) from e
    return dataclasses.replace(self, model=model, task=task)

  def check_patch_sizes(self, image_hw: tuple[int, int]) -> None:
    """Refuses patch sizes that do not tile the images, or tile them into more
    patches than the model has positions for.

    Raises:
      ConfigError: naming the sizes that do tile, or the largest grid.
    """
    for size in self.patch_size.sizes:
      with blaming("config.patch_size"):
        check_patch_size(self.model, image_hw, size)
        self.task.check_grid(image_hw, size)


def check_patch_size(
  model: vit.ViT, image_hw: tuple[int, int], patch_hw: tuple[int, int]
) -> None:
  """Refuses a patch size that a model cannot use on an image.

  Raises:
    ValueError: it does not tile the image, is no whole number of the stem's
      cells, or makes more patches than the model has positions for.
  """
  check_tiling(image_hw, patch_hw, model.stem.stride)
  model.stem.cells(patch_hw)
  positions.check_grid(model.position, grid_shape(image_hw, patch_hw))


class TilingError(ValueError):
  """A patch size that does not tile the images."""


def check_tiling(
  image_hw: tuple[int, int], patch_hw: tuple[int, int], stride: int = 1
) -> None:
  """Refuses a patch size that does not tile an image.

  Args:
    stride: of the model's stem.

  Raises:
    TilingError: naming the square sizes that do.
  """
  try:
    grid_shape(image_hw, patch_hw)
  except ValueError as e:
    sides = ", ".join(map(str, common_divisors(image_hw, stride))) or "none"
    of_cells = "" if stride == 1 else f"multiples of the stem's {stride} "
    raise TilingError(
      f"{e}; {of_cells or 'sides '}that divide both: {sides}"
    ) from e


def common_divisors(image_hw: tuple[int, int], stride: int = 1) -> list[int]:
  """Sides of square patches that tile an image, multiples of the stride."""
  whole = math.gcd(*image_hw)
  return [p for p in range(stride, whole + 1, stride) if whole % p == 0]


def check_same_classes(train: sources.Source, other: sources.Source) -> None:
  """Refuses evaluation data whose labels mean something else.

  Raises:
    ValueError: naming the first classes that differ.
  """
  if tuple(train.classes) == tuple(other.classes):
    return
  if sorted(train.classes) == sorted(other.classes):
    raise ValueError("the training data's classes, but in another order")
  missing = sorted(set(train.classes) - set(other.classes))[:3]
  extra = sorted(set(other.classes) - set(train.classes))[:3]
  raise ValueError(
    f"{len(other.classes)} classes, but the training data has "
    f"{len(train.classes)}; only here: {extra}, only there: {missing}. Give "
    "both the same class folders"
  )
