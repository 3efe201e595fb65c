"""What a config computes in a step, in numbers; its data stays closed where
the config itself says how large the images are."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from flexivit_jax.attention.distribution import name_of
from flexivit_jax.attention.kernel import Kernel
from flexivit_jax.checkpoints.model import parameter_count
from flexivit_jax.config.experiment import Experiment
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.core.tokens import grid_shape
from flexivit_jax.data.pixels import transforms as transforms_lib
from flexivit_jax.models import cost
from flexivit_jax.nn.positions import learned_grid
from flexivit_jax.nn.stems import stem
from flexivit_jax.run.loaders import train_loader
from flexivit_jax.run.memory_report import costliest
from flexivit_jax.run.plan.workload import Layout, Weights, Workload
from flexivit_jax.training import state as state_lib

# Longer than any run, so that no schedule is too short for its warm-up.
_STEPS = 2**30


@dataclasses.dataclass(frozen=True)
class Planned:
  """An experiment whose model knows its classes, and its costliest program.

  Attributes:
    patch_hw: None: packed rows.
    image_hw: None: the same.
    length: tokens of a row instead of the config's own; None: these.
  """

  experiment: Experiment
  patch_hw: tuple[int, int] | None
  image_hw: tuple[int, int] | None
  length: int | None = None

  @property
  def kernel(self) -> Kernel:
    """Of the blocks' attention."""
    return self.experiment.model.kernel

  @property
  def kernel_name(self) -> str:
    """As configs spell it."""
    return name_of(self.kernel)

  @functools.cached_property
  def state(self) -> state_lib.TrainState:
    """The training state, as shapes."""
    experiment = self.experiment
    model, size = experiment.model, experiment.patch_size.sizes[0]
    with config_errors_at("config.optimizer"):
      tx = experiment.optimizer.build(experiment.total_steps or _STEPS)

    def init(inputs):
      # Parameters do not depend on how many patches there are.
      key = jax.random.key(0)
      params = experiment.task.init(model, key, inputs, size)
      ema = experiment.ema is not None
      return state_lib.init_state(params, tx, experiment.seed, ema=ema)

    one_patch = jax.ShapeDtypeStruct((1, *size, model.channels), jnp.uint8)
    with config_errors_at("config.model"):
      return jax.eval_shape(init, one_patch)

  def workload(self, layout: Layout, platform: str) -> Workload:
    """What is computed, and what the parameters take on such a mesh."""
    experiment, state = self.experiment, self.state
    model, packing = experiment.model, experiment.packing
    if packing is None:
      patches, slots = cost.tokens(self.image_hw, self.patch_hw), 1
      operations = cost.multiply_adds(model, self.image_hw, self.patch_hw)
      pixels = math.prod(self.patch_hw)
    else:
      patches, slots = packing.row_length, packing.max_images
      sizes = experiment.patch_size.sizes
      operations = cost.packed_multiply_adds(model, patches, slots, sizes)
      pixels = math.prod(map(max, zip(*sizes)))
    length = cost.packed_row_length(model, patches, slots)
    table = self._weights(True, AbstractMesh((1, 1), ("data", "seq")))
    mesh = AbstractMesh(tuple(layout), ("data", "seq"))
    work = Workload(
      rows=experiment.batch_size,
      length=length,
      size=model.size,
      weights=self._weights(False, mesh),
      block_numbers=parameter_count(_blocks(state.params)),
      table=table,
      outside=0,
      patch_numbers=pixels * model.channels,
      prefix=length - patches,
      # XLA computes bfloat16 in float32 on a CPU.
      itemsize=jnp.dtype(
        "float32" if platform == "cpu" else model.dtype
      ).itemsize,
      gated_mlp=model.gated_mlp,
      scan=model.scan,
      remat=model.remat,
      accumulate=experiment.accumulate,
      kernel=self.kernel,
      platform=platform,
    )
    counted = work.attention_multiply_adds + work.other_multiply_adds
    work = dataclasses.replace(work, outside=(operations - counted) / length)
    return work if self.length is None else work.of_length(self.length)

  def _weights(self, table: bool, mesh: AbstractMesh) -> Weights:
    """Of the table of positions that is cut with the tokens, or of all else."""
    state, sharding = self.state, self.experiment.sharding
    cut = self._cut_table

    def sizes(tree):
      numbers = total = 0
      for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        mine = cut and any(
          getattr(key, "key", None) == learned_grid.TABLE for key in path
        )
        if mine == table:
          numbers += math.prod(x.shape)
          shape = sharding(x.shape, mesh).shard_shape(x.shape)
          total += math.prod(shape) * x.dtype.itemsize
      return numbers, total

    numbers, parameters = sizes(state.params)
    return Weights(numbers, parameters, sizes((state.opt_state, state.ema))[1])

  @property
  def _cut_table(self) -> bool:
    """Whether each patch has a learned position of its own."""
    position = self.experiment.model.position
    return (
      isinstance(position, learned_grid.LearnedGrid)
      and self.image_hw is not None
      and position.size == grid_shape(self.image_hw, self.patch_hw)
    )

  def describe(self, work: Workload):
    """Lines: what is planned for."""
    size, model = work.size, self.experiment.model
    if self.image_hw is None:
      what = "packed rows"
    else:
      h, w = self.image_hw
      what = f"images of {h}x{w} px in patches of {_by(self.patch_hw)}"
    if self.length is not None:
      what = "rows of another length than the config's"
    numbers = work.weights.numbers + work.table.numbers
    rows = [
      (
        "model",
        f"width {size.width}, depth {size.depth}, MLP {size.mlp_dim}, "
        f"{size.num_heads} heads, {numbers:,} parameters",
      ),
      ("step", f"{work.rows} rows of {work.length:,} tokens: {what}"),
      (
        "as",
        f"{model.dtype}, kernel {self.kernel_name}, "
        f"{'with' if work.remat else 'without'} remat, microbatches: "
        f"{work.accumulate}",
      ),
    ]
    if work.table.numbers:
      rows.append(
        ("positions", f"{work.table.numbers:,} parameters, cut with the tokens")
      )
    for name, value in rows:
      yield f"{name:9}  {value}"


def read(experiment: Experiment, length: int | None = None) -> Planned:
  """Opens the training data only for what the config does not say.

  Raises:
    ConfigError: the data is needed and cannot be opened, or patches do not tile
      the images.
  """
  if not isinstance(experiment.model.stem, stem.NoStem):
    raise ConfigError(
      "config.model.stem: the plan has no formula for the memory of "
      "convolutions: train.py --dry_run says what a step needs, "
      "--config.model.stem=none plans without them"
    )
  packed = experiment.packing is not None
  image_hw = None if packed else _image_hw(experiment.train.transforms)
  source = None
  if experiment.model.num_classes is None or (image_hw is None and not packed):
    source = _opened(experiment, image_hw)
    experiment = experiment.for_classes(source.classes)
  if image_hw is None and not packed:
    with config_errors_at("config.train"):
      loader = train_loader(experiment, source)
    image_hw = loader.image_hw
    loader.close()
  if not packed:
    experiment.check_patch_sizes(image_hw)
  patch_hw = costliest(experiment.programs)
  return Planned(experiment, patch_hw, image_hw, length)


def _opened(experiment: Experiment, image_hw):
  try:
    with config_errors_at("config.train"):
      return experiment.open(experiment.train)
  except ConfigError as e:
    if image_hw is None and experiment.packing is None:
      raise
    raise ConfigError(
      f"{e}\nthe plan needs it for the number of classes alone: "
      "--config.model.num_classes=1000 does without"
    ) from e


def _image_hw(
  transforms: tuple[transforms_lib.Transform, ...],
) -> tuple[int, int] | None:
  """(height, width) of the images that leave them; None: that of the source
  decides."""
  image_hw: Any = None
  for transform in transforms:
    if isinstance(transform, transforms_lib.PadSquare):
      image_hw = image_hw and (max(image_hw),) * 2
    else:
      image_hw = getattr(transform, "size", image_hw)
  return image_hw


def _blocks(params) -> dict:
  """Of the encoder's blocks, which many devices could share."""
  return {
    name: part
    for name, part in params["Transformer"].items()
    if name.startswith("encoderblock")
  }


def _by(hw: tuple[int, int]) -> str:
  return f"{hw[0]}x{hw[1]}"
