"""What a run works with: opened, checked and compiled before its first step."""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax import config, pretrained, teaching
from flexivit_jax.checkpoints import native
from flexivit_jax.core import means
from flexivit_jax.core.patch_size import as_hw
from flexivit_jax.core.text import format_bytes
from flexivit_jax.core.tokens import Batch
from flexivit_jax.data import bad_images, pack_loader, packs, scan
from flexivit_jax.data import loader as loader_lib
from flexivit_jax.data.cutting import Cutter
from flexivit_jax.evaluation import readings, sweep
from flexivit_jax.evaluation.points import size_name
from flexivit_jax.experiment import (
  ConfigError,
  Data,
  Experiment,
  blaming,
  check_same_classes,
)
from flexivit_jax.formats import fitting
from flexivit_jax.nn import cost, vit
from flexivit_jax.tasks import distill, losses, pack_report
from flexivit_jax.training import (
  compilation,
  matmul_rate,
  memory,
  mixing,
  norms,
  parameter_sharding,
  provenance,
  sharding,
  step,
)

# In G multiply-adds, as papers count FLOPs.
PACKED_COST = "pack/gflops_per_image"


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
  """A compiled training step: (state, metrics, batch) to state and metrics.

  Attributes:
    read: its last argument, what it reads and does not change.
  """

  compiled: jax.stages.Compiled
  read: dict[str, Any]

  def __call__(self, state, metrics, batch):
    return self.compiled(state, metrics, batch, self.read)


@dataclasses.dataclass(frozen=True)
class Run:
  """Opened data, devices and optimiser of an experiment.

  Attributes:
    experiment: with the data's number of classes.
    validation: the reading of the validation data; None without such data.
    images_per_step: mean, of packed rows.
    record: of config, data and machine, as JSON.
    initial: parameters to start with, by name; `init_state` takes them.
    teacher: that the task learns from, on the devices; None: it has none.
  """

  experiment: Experiment
  total_steps: int
  mesh: jax.sharding.Mesh
  loader: loader_lib.TrainLoader | pack_loader.PackLoader
  validation: sweep.Reading | None
  images_per_step: float
  tx: Any
  record: dict[str, Any]
  initial: dict[str, np.ndarray]
  teacher: distill.Teacher | None = None

  def is_due(self, every: int, done: int) -> bool:
    return done % every == 0 or done == self.total_steps

  def measure(self, params, batch, **kwargs):
    """The task's metrics; a teacher must be given as `teacher`."""
    params = self.experiment.optimizer.hold(params)
    params = parameter_sharding.gathered(params, self.state_shardings.params)
    return self.experiment.task.measure(
      self.experiment.model, params, batch, **kwargs
    )

  def augment(self, key, batch):
    """What each step draws on the devices."""
    wanted = losses.targets(batch, self.experiment.model.num_classes)
    batch = dataclasses.replace(batch, targets=wanted)
    return mixing.mix(self.experiment.mix, key, batch)

  def of_rows(self, batch) -> dict[str, means.Mean]:
    """What packed rows hold and cost."""
    return {
      PACKED_COST: packed_cost(self.experiment.model, batch),
      **pack_report.pack_report(batch),
    }

  @property
  def metrics(self) -> tuple[str, ...]:
    """Names of the numbers that a training step measures, but for the
    gradient's norm."""
    packed = (*pack_report.METRICS, PACKED_COST)
    packed = packed if self.experiment.packing else ()
    return *self.experiment.task.metrics, *packed

  @property
  def arrays(self) -> dict[str, tuple[str, ...]]:
    """Names in each array of numbers that a training step measures: a buffer
    of its own for each number would cost small models some time."""
    sizes = self.experiment.programs
    by_size = tuple(f"loss@{size_name(s)}" for s in sizes if len(sizes) > 1)
    named = {"norms": norms.names(self.state_shapes.params), "losses": by_size}
    return {array: names for array, names in named.items() if names}

  def values(self, metrics) -> dict[str, float]:
    """The means by name, without those of nothing; waits for them once."""
    metrics = jax.device_get(metrics)
    names = (*self.metrics, "gradient_norm")
    values = {name: float(metrics[name]) for name in names}
    for array, names in self.arrays.items():
      total, count = np.broadcast_arrays(
        metrics[array].total, metrics[array].count
      )
      means_of = zip(names, total.tolist(), count.tolist(), strict=True)
      values |= {name: x / k for name, x, k in means_of if k}
    return values

  def gflops(self, program: tuple[int, int] | None) -> float:
    """G multiply-adds of a step's forward pass; of packed rows it is measured.

    A training step takes two floating-point operations for each, three times.
    """
    if program is None:
      return 0.0
    per_image = cost.multiply_adds(
      self.experiment.model, self.loader.image_hw, program
    )
    return self.experiment.batch_size * per_image / 1e9

  @property
  def matmul_rate(self) -> float:
    """FLOP/s of a matrix product on the devices, from the record."""
    return self.record["flops_per_s"][self._machine]

  @property
  def _machine(self):
    return matmul_rate.key(self._devices, self.experiment.model.dtype)

  @property
  def _devices(self):
    return list(self.mesh.devices.flat)

  def matmul_rates(
    self, known: Mapping[str, float], report: Callable[[str], None]
  ) -> dict[str, float]:
    """Those that are known, and that of these devices.

    Args:
      report: called with a line on what was measured.
    """
    if self._machine in known:
      return dict(known)
    dtype = self.experiment.model.dtype
    rate = matmul_rate.measure(self._devices, dtype)
    report(f"matrix products: {rate / 1e9:.3g} GFLOP/s on {self._machine}")
    return {**known, self._machine: rate}

  def zero_metrics(self):
    zero = step.zero_metrics(self.metrics)
    for array, names in self.arrays.items():
      nothing = jnp.zeros(len(names))
      count = jnp.zeros(()) if array == "norms" else nothing
      zero[array] = means.Mean(nothing, count)
    return jax.device_put(zero, sharding.replicated(self.mesh))

  def init_state(self) -> step.TrainState:
    """The state before the first step, on the devices."""
    init = functools.partial(_init_state, self.experiment, self.tx)
    init = jax.jit(init, out_shardings=self.state_shardings)
    state = init(self._one_row, self.initial)
    self.initial.clear()  # they would take the memory of a second model
    return state

  @functools.cached_property
  def state_shapes(self) -> step.TrainState:
    """The same as shapes, types and shardings."""
    init = functools.partial(_begin, self.experiment, self.tx)
    return parameter_sharding.placed(
      jax.eval_shape(init, self.parameter_shapes),
      self.experiment.sharding,
      self.mesh,
    )

  @functools.cached_property
  def parameter_shapes(self):
    """Of the model, as shapes and types."""
    init = functools.partial(_init_params, self.experiment)
    return jax.eval_shape(init, self._one_row)

  @property
  def state_shardings(self) -> step.TrainState:
    return jax.tree.map(lambda x: x.sharding, self.state_shapes)

  @property
  def _one_row(self):
    # Enough to initialise a model; the whole batch would have to be moved.
    return jax.tree.map(lambda x: x[:1], self.loader.example().inputs)

  @property
  def _read(self):
    """What a step reads and does not change: an argument, so that no program
    holds a copy of it."""
    return {} if self.teacher is None else {"teacher": self.teacher}

  def compile_steps(self, state, metrics, report, sizes=None):
    """The train step for each patch size: {size: Step}."""

    packing = self.experiment.packing
    constant = packing is not None and packing.loss == "sum"
    images = self.images_per_step if constant else None

    def train_step(state, metrics, batch, read, *, patch_hw):
      def measure(*args, **kwargs):
        measured = self.measure(*args, patch_hw=patch_hw, **kwargs, **read)
        if packing is not None:
          return measured
        programs = self.experiment.programs
        place = programs.index(patch_hw), len(programs)
        return measured | {"losses": measured["loss"].at(*place)}

      return step.train_step(
        state,
        metrics,
        batch,
        measure=measure,
        tx=self.tx,
        images=images,
        beside=None if packing is None else self.of_rows(batch),
        augment=self.augment if self.experiment.mix else None,
        accumulate=self.experiment.accumulate,
        ema=self.experiment.ema,
      )

    everywhere = sharding.replicated(self.mesh)
    rows = sharding.over_rows(self.mesh)
    sizes = sizes or self.experiment.programs
    batch = sharding.shapes(self.loader.example(), self.mesh)
    with self.explaining_memory(sizes):
      compiled = compilation.compile_sizes(
        train_step,
        sizes,
        arguments=(state, metrics, batch, self._read),
        jit_options={
          "in_shardings": (self.state_shardings, everywhere, rows, everywhere),
          "out_shardings": (self.state_shardings, everywhere),
          "donate_argnums": 0,
        },
        report=report,
        what="train step",
      )
    return {size: Step(x, self._read) for size, x in compiled.items()}

  def compile_evaluation(self, params, report, sizes=None):
    """Programs of the evaluation by setting; none without validation data.

    Args:
      sizes: those of images that are not packed; None: all.
    """
    if self.validation is None:
      return {}
    reading = self.validation
    if sizes is not None:
      reading = reading.only(
        lambda view, s: reading.is_packed(view) or s.patch_hw in sizes
      )
    answer = functools.partial(
      sweep.forward, self.experiment.task, self.experiment.model
    )
    with self.explaining_evaluation():
      return sweep.compile_programs(
        lambda setting: (answer, params), [reading], self.mesh, report
      )

  def memory(self, patch_hw: tuple[int, int] | None) -> memory.Memory:
    """Estimate for a training step."""
    state = self.state_shapes
    return memory.estimate(
      functools.partial(self.measure, **self._read),
      state.params,
      state.opt_state,
      sharding.shapes(self.loader.example(), self.mesh),
      ema=state.ema,
      patch_hw=patch_hw,
      num_devices=self.mesh.size,
      held=self._read,
      accumulate=self.experiment.accumulate,
    )

  def explaining_memory(self, sizes: Collection[tuple[int, int] | None]):
    """As `memory.explaining`; any of these patch sizes may exhaust it.

    Args:
      sizes: read when it happens, so they may change inside.
    """

    def describe():
      size = costliest(sizes)
      return self._describe_memory("out of memory", size, self.memory(size))

    return memory.explaining(describe)

  def check_memory(self, report: Callable[[str], None]) -> None:
    """Compares the estimate with the devices' memory, before compiling.

    Raises:
      memory.OutOfMemoryError: a step needs far more, or all but certainly so.
    """
    limit = memory.device_bytes(self.mesh.devices.flat[0])
    size = costliest(self.experiment.programs)
    needed = self.memory(size)
    if limit is None or needed.total <= limit:
      return
    text = self._describe_memory(
      f"too little memory ({format_bytes(limit)})", size, needed, limit
    )
    # Beyond what the estimate may be off.
    if needed.total > 1.5 * limit:
      raise memory.OutOfMemoryError(text)
    report(f"warning: {text}")

  def _describe_memory(self, problem, size, needed, limit=None) -> str:
    model, packing = self.experiment.model, self.experiment.packing
    if packing is not None:
      tokens = cost.packed_row_length(
        model, packing.row_length, packing.max_images
      )
    else:
      tokens = cost.tokens(self.loader.image_hw, size)
    return memory.describe_out_of_memory(
      problem,
      needed,
      batch_size=self.experiment.batch_size,
      patch_hw=size,
      largest_patch=max(self.experiment.patch_size.sizes, key=math.prod),
      tokens=tokens,
      remat=model.remat,
      scan=model.scan,
      dtype=model.dtype,
      num_devices=self.mesh.size,
      platform=self.mesh.devices.flat[0].platform,
      limit=limit,
    )

  def explaining_evaluation(self):
    return memory.explaining_evaluation(
      self.experiment.eval_batch_size, "config.eval_batch_size"
    )


def packed_cost(model: vit.ViT, batch: Batch) -> means.Mean:
  """G multiply-adds that the forward pass of a packed image needs."""
  tokens = batch.inputs
  images = jnp.arange(1, tokens.num_images + 1)[None, :, None]
  counts = (tokens.segments[:, None] == images).sum(axis=-1, dtype=jnp.float32)
  needed = cost.packed_image_multiply_adds(model, counts, tokens.patch_sizes)
  return means.Mean.of(needed / 1e9, batch.weights)


def costliest(
  sizes: Collection[tuple[int, int] | None],
) -> tuple[int, int] | None:
  """The patch size that cuts an image into the most tokens."""
  return min(sizes, key=lambda size: math.prod(size or ()))


def prepare(
  experiment: Experiment,
  report: Callable[[str], None],
  *,
  resuming: bool = False,
) -> Run:
  """Opens and checks everything, before anything expensive starts.

  Writes nothing.

  Args:
    report: called with lines on the checkpoint to start from.
    resuming: the run has checkpoints of its own, so it starts from none.

  Raises:
    ConfigError: naming what cannot work, and what would.
  """
  mesh = sharding.make_mesh()
  with blaming("config.writers"):
    for writer in experiment.writers:
      writer.check()
  with blaming("config.batch_size"):
    sharding.check_batch_size(experiment.batch_size, mesh)
  with blaming("config.accumulate"):
    sharding.check_accumulation(
      experiment.accumulate, experiment.batch_size, mesh
    )
  with blaming("config.train"):
    source = experiment.open(experiment.train)
    experiment = experiment.for_classes(source.classes)
    loader = train_loader(experiment, source)
  looked_at, images_per_step = {}, experiment.batch_size
  taken_per_step = images_per_step
  if experiment.packing is None:
    experiment.check_patch_sizes(loader.image_hw)
  else:
    with blaming("config.train"):
      seen = scan.scan(loader.cut_images, experiment.packing)
    report("\n".join(scan.describe(seen, experiment.batch_size)))
    looked_at = {"scan": scan.to_json(seen)}
    images_per_step *= seen.now.images_per_row
    taken_per_step *= seen.now.taken_per_row
  opened, validation = {"train": source}, None
  if experiment.validation is not None:
    with blaming("config.validation"):
      opened["validation"] = experiment.open(experiment.validation)
      check_same_classes(source, opened["validation"])
      validation = eval_reading(
        experiment.validation,
        opened["validation"],
        experiment.patch_size.sizes,
        model=experiment.model,
        packing=experiment.packing,
        batch_size=sharding.round_up(experiment.eval_batch_size, mesh),
        on_bad_image=experiment.on_bad_image,
      )
    for setting in validation.settings:
      if setting.image_hw is not None:
        _check_tiling(experiment, setting.image_hw)
  if experiment.test is not None:
    with blaming("config.test"):
      check_same_classes(source, experiment.open(experiment.test))
      if experiment.test.resolution is not None:
        loader_lib.refuse_random(
          (*experiment.test.transforms, experiment.test.resolution)
        )
  teacher, taught_by = None, {}
  if isinstance(experiment.task, distill.Distill):
    with blaming("config.task.teacher"):
      opened_teacher = teaching.load(
        experiment.task.teacher,
        source.classes,
        experiment.model.num_classes,
        teacher_hw(experiment) or loader.image_hw,
      )
    report("\n".join(("taught by", *opened_teacher.description)))
    teacher = jax.device_put(opened_teacher.teacher, sharding.replicated(mesh))
    taught_by = {"teacher": {"fingerprint": opened_teacher.digest}}
  initial, origin = {}, {}
  if experiment.init_from is not None and not resuming:
    with blaming("config.init_from"):
      initial, lines = read_initial(experiment)
    report("\n".join(lines))
    origin = {"init_from": lines}
  total_steps = experiment.num_steps(len(source), taken_per_step)
  with blaming("config.optimizer"):
    tx = experiment.optimizer.build(total_steps)
  run = Run(
    experiment=experiment,
    total_steps=total_steps,
    mesh=mesh,
    loader=loader,
    validation=validation,
    images_per_step=images_per_step,
    tx=tx,
    record={
      "config": config.to_json(experiment),
      "data": {
        name: {"fingerprint": source.fingerprint, "images": len(source)}
        for name, source in opened.items()
      }
      | taught_by,
      "classes": list(source.classes),
      "provenance": provenance.describe(),
      **origin,
      **looked_at,
    },
    initial=initial,
    teacher=teacher,
  )
  with blaming("config.model"):
    run.parameter_shapes  # noqa: B018 (initialises without computing)
  with blaming("config.optimizer"):
    run.state_shapes  # noqa: B018 (the same)
  return run


def _check_tiling(experiment: Experiment, image_hw) -> None:
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


def read_initial(experiment: Experiment) -> tuple[dict, list[str]]:
  """What a run starts from: {name: array}, and lines that say what it is.

  Raises:
    ValueError: it cannot be loaded, or does not fit the model.
  """
  init = experiment.init_from
  found = pretrained.read(init.checkpoint, step=init.step)
  arrays, changes = fitting.fit(
    found.model,
    found.arrays,
    experiment.model,
    init.dont_load,
    found.spec.path,
  )
  lines = [f"starting from {found}", *(f"  {line}" for line in changes)]
  return arrays, "\n".join(lines).splitlines()


def teacher_hw(experiment: Experiment) -> tuple[int, int] | None:
  """(height, width) of the images that a teacher is shown; None: there is
  none, or it sees the student's."""
  if not isinstance(experiment.task, distill.Distill):
    return None
  size = experiment.task.teacher.image_size
  return None if size is None else as_hw(size)


def train_loader(experiment: Experiment, source):
  """This process's training batches: of images, or of packed rows."""
  data, packing = experiment.train, experiment.packing
  options = {
    "batch_size": experiment.batch_size,
    "seed": experiment.seed,
    "workers": experiment.workers,
    "threads": experiment.threads,
    "shard": shard(),
    "on_bad_image": experiment.on_bad_image,
    "read_parts": experiment.read_parts,
  }
  if packing is None:
    with blaming("config.task.teacher.image_size"):
      shown = teacher_hw(experiment)
    return loader_lib.TrainLoader(
      source, data.transforms, teacher_hw=shown, **options
    )
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
) -> sweep.Reading:
  """This process's evaluation of images as `data` shows them."""
  options = {
    "batch_size": batch_size,
    "shard": shard(),
    "on_bad_image": on_bad_image,
  }
  if data.resolution is None:
    return readings.of_one_size(
      source, [data.transforms], lambda _: sizes, **options
    )
  views = [(data.resolution, packing)]
  return readings.packed(
    source, data.transforms, views, sizes, model=model, **options
  )


def start(
  run: Run, checkpoints: native.Checkpoints, report: Callable[[str], None]
):
  """The state and running metrics to go on from, on the devices."""
  state, metrics = run.init_state(), run.zero_metrics()
  like = {"state": state, "running": metrics}
  with blaming("cannot resume"):
    restored = checkpoints.restore(like, report)
  if restored is None:
    return state, metrics
  with blaming(f"the checkpoint of step {restored.step}"):
    run.loader.set_state(restored.progress["loader"])
  report(f"resuming after step {restored.step} of {run.total_steps}")
  return restored.arrays["state"], restored.arrays["running"]


def shard() -> tuple[int, int]:
  """(index, count) of this process."""
  return jax.process_index(), jax.process_count()


def _init_state(experiment: Experiment, tx, inputs, initial) -> step.TrainState:
  params = _init_params(experiment, inputs)
  flat = flax.traverse_util.flatten_dict(params, sep="/")
  params = flax.traverse_util.unflatten_dict({**flat, **initial}, sep="/")
  return _begin(experiment, tx, params)


def _init_params(experiment: Experiment, inputs):
  key, size = jax.random.key(experiment.seed), experiment.patch_size.sizes[0]
  return experiment.task.init(experiment.model, key, inputs, size)


def _begin(experiment: Experiment, tx, params) -> step.TrainState:
  ema = experiment.ema is not None
  return step.init_state(params, tx, experiment.seed, ema=ema)
