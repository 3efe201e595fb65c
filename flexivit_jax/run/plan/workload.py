"""A training step in numbers, from an experiment or by hand."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from flexivit_jax.attention import blockwise
from flexivit_jax.attention.distribution import name_of
from flexivit_jax.attention.kernel import Kernel
from flexivit_jax.checkpoints.model import parameter_count
from flexivit_jax.config.experiment import Experiment
from flexivit_jax.core.errors import ConfigError, config_errors_at
from flexivit_jax.core.sizes import size_name
from flexivit_jax.data.pixels import transforms as transforms_lib
from flexivit_jax.models import cost
from flexivit_jax.nn.encoder import Size
from flexivit_jax.nn.stems import stem
from flexivit_jax.run.loaders import train_loader
from flexivit_jax.run.memory_report import costliest
from flexivit_jax.run.plan.layout import Layout
from flexivit_jax.training import state as state_lib


class Weights(NamedTuple):
  """Parameters, and what belongs to them.

  Attributes:
    numbers: of the parameters, on all devices together.
    parameters: their bytes on each device.
    optimizer: bytes of the optimiser's state on each device, and of the
      parameters' moving average.
  """

  numbers: int
  parameters: int
  optimizer: int


@dataclasses.dataclass(frozen=True)
class Workload:
  """What one training step computes, whatever the devices.

  Attributes:
    rows: images, or packed rows, of a step over all devices.
    length: tokens of a row, class tokens and registers included.
    size: of the encoder.
    weights: of all parameters.
    outside: multiply-adds of a row's forward pass outside the blocks, for each
      token.
    patch_numbers: of a patch's pixels.
    prefix: class tokens and registers in a row.
    itemsize: bytes of a number of the activations.
    gated_mlp: as in `ViT`.
    scan: as in `ViT`.
    remat: whether blocks are computed again backward.
    accumulate: microbatches of a step.
    kernel: of the attention.
    platform: "cpu", "gpu" or "tpu". A CPU computes dense attention one head at
      a time.
  """

  rows: int
  length: int
  size: Size
  weights: Weights
  outside: float
  patch_numbers: int
  prefix: int = 0
  itemsize: int = 4
  gated_mlp: bool = False
  scan: bool = False
  remat: bool = False
  accumulate: int = 1
  kernel: Kernel = blockwise.Blockwise()
  platform: str = "gpu"

  def of_length(self, length: int) -> "Workload":
    """The same with rows of another length."""
    return dataclasses.replace(self, length=length)

  @property
  def activation(self) -> int:
    """Bytes of one vector for each token of one row."""
    return self.length * self.size.width * self.itemsize

  @property
  def attention_multiply_adds(self) -> int:
    """Of a row's forward pass: logits and weighted sums, in all blocks."""
    return 2 * self.size.depth * self.length**2 * self.size.width

  @property
  def other_multiply_adds(self) -> float:
    """Of a row's forward pass: all but those."""
    d, maps = self.size.width, 3 if self.gated_mlp else 2
    block = 4 * d * d + maps * d * self.size.mlp_dim
    return self.length * (self.size.depth * block + self.outside)


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
  def kernel_name(self) -> str:
    """As configs spell it."""
    return name_of(self.experiment.model.kernel)

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
    experiment = self.experiment
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
    mesh = AbstractMesh(tuple(layout), ("data", "seq"))
    work = Workload(
      rows=experiment.batch_size,
      length=length,
      size=model.size,
      weights=self._weights(mesh),
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
      kernel=model.kernel,
      platform=platform,
    )
    counted = work.attention_multiply_adds + work.other_multiply_adds
    work = dataclasses.replace(work, outside=(operations - counted) / length)
    return work if self.length is None else work.of_length(self.length)

  def _weights(self, mesh: AbstractMesh) -> Weights:
    state, sharding = self.state, self.experiment.sharding

    def of_device(tree):
      return sum(
        math.prod(sharding(x.shape, mesh).shard_shape(x.shape))
        * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
      )

    numbers = parameter_count(state.params)
    optimizer = of_device((state.opt_state, state.ema))
    return Weights(numbers, of_device(state.params), optimizer)

  def describe(self, work: Workload):
    """Lines: what is planned for."""
    size, model = work.size, self.experiment.model
    if self.image_hw is None:
      what = "packed rows"
    else:
      h, w = self.image_hw
      what = f"images of {h}x{w} px in patches of {size_name(self.patch_hw)} px"
    if self.length is not None:
      what = "rows of another length than the config's"
    rows = [
      (
        "model",
        f"width {size.width}, depth {size.depth}, MLP {size.mlp_dim}, "
        f"{size.num_heads} heads, {work.weights.numbers:,} parameters",
      ),
      ("step", f"{work.rows} rows of {work.length:,} tokens: {what}"),
      (
        "as",
        f"{model.dtype}, kernel {self.kernel_name}, "
        f"{'with' if work.remat else 'without'} remat, microbatches: "
        f"{work.accumulate}",
      ),
    ]
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
