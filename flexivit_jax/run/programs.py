"""What a run works with: opened, checked and compiled before its first step."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from flexivit_jax.checkpoints import run_directory, run_record
from flexivit_jax.config.experiment import Experiment
from flexivit_jax.core import cut
from flexivit_jax.core.cut import to_tokens
from flexivit_jax.data.loading import loader as loading_loader
from flexivit_jax.data.packing import loader as packing_loader
from flexivit_jax.devices import (
  compilation,
  parameter_sharding,
  placement,
)
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.devices.processes import ALONE, Processes
from flexivit_jax.evaluation import reading as reading_lib
from flexivit_jax.evaluation import sweep
from flexivit_jax.evaluation import validation as validation_lib
from flexivit_jax.models import cost
from flexivit_jax.run import memory_report, speed
from flexivit_jax.run import metrics as metrics_lib
from flexivit_jax.run.loaders import teacher_hw
from flexivit_jax.run.state import begin, init_params, init_state
from flexivit_jax.tasks import distillation, losses
from flexivit_jax.training import mixing, step
from flexivit_jax.training import state as state_lib


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
    teacher: that the task learns from, on the devices; None: it has none, or
      no step is left to learn in.
    peers: the processes of the run, each with a part of the devices.
  """

  experiment: Experiment
  total_steps: int
  mesh: jax.sharding.Mesh
  loader: loading_loader.TrainLoader | packing_loader.PackLoader
  validation: reading_lib.Reading | None
  images_per_step: float
  tx: Any
  record: dict[str, Any]
  initial: dict[str, np.ndarray]
  teacher: distillation.Teacher | None = None
  peers: Processes = ALONE

  def is_due(self, every: int, done: int) -> bool:
    return done % every == 0 or done == self.total_steps

  def measure(self, params, batch, **kwargs):
    """The task's metrics; a teacher must be given as `teacher`."""
    params = self.experiment.optimizer.hold(params)
    params = parameter_sharding.gathered(params, self.state_shardings.params)
    batch = self._in_order(batch, kwargs["patch_hw"])
    return self.experiment.task.measure(
      self.experiment.model, params, batch, **kwargs
    )

  def _in_order(self, batch, patch_hw):
    """With tokens in the order in which devices share them."""
    if not self._strides:
      return batch
    tokens = to_tokens(batch.inputs, patch_hw)
    tokens = cut.reorder(tokens, self.mesh.shape["seq"])
    return dataclasses.replace(batch, inputs=tokens)

  @property
  def _strides(self) -> bool:
    order = self.experiment.mesh.order
    return order == cut.STRIDED and self.mesh.shape["seq"] > 1

  def augment(self, key, batch):
    """What each step draws on the devices."""
    wanted = losses.targets(batch, self.experiment.model.num_classes)
    batch = dataclasses.replace(batch, targets=wanted)
    return mixing.mix(self.experiment.mix, key, batch)

  @functools.cached_property
  def numbers(self) -> metrics_lib.Numbers:
    """What a training step measures."""
    packed = self.experiment.packing is not None
    return metrics_lib.Numbers(
      self.experiment,
      self.parameter_shapes,
      None if packed else self.loader.image_hw,
      self._teacher_cost,
    )

  @property
  def _teacher_cost(self) -> int:
    if self.teacher is None:
      return 0
    image_hw = teacher_hw(self.experiment) or self.loader.image_hw
    return cost.multiply_adds(
      self.teacher.model, image_hw, self.teacher.patch_hw
    )

  def zero_metrics(self):
    return placement.replicate(self.numbers.zero(), self.mesh)

  @property
  def matmul_rate(self) -> float:
    """FLOP/s of a matrix product on the devices, from the record."""
    return self.record["flops_per_s"][self._machine]

  @property
  def _machine(self):
    return speed.key(self._devices, self.experiment.model.dtype)

  @property
  def _devices(self):
    return list(self.mesh.devices.flat)

  def write_record(
    self, workdir: pathlib.Path, report: Callable[[str], None]
  ) -> None:
    """Writes config.json, with the devices' rate of matrix products.

    Raises:
      CheckpointError: the disk has no room for two checkpoints: one is written
        before another is removed.
    """
    wanted = 2 * run_directory.num_bytes(self.state_shapes)
    run_directory.check_space(workdir, wanted, "room for two checkpoints")
    resuming = bool(run_directory.steps(workdir))
    known = run_record.read(workdir).get("flops_per_s") if resuming else None
    known = self.peers.gather(known)[0] or {}
    if self._machine not in known:
      dtype = self.experiment.model.dtype
      # Each process measures its own: they need not be done at the same time.
      own = speed.measure(self.mesh.local_devices, dtype)
      rate = sum(self.peers.gather(own))
      report(f"matrix products: {rate / 1e9:.3g} GFLOP/s on {self._machine}")
      known = {**known, self._machine: rate}
    self.record["flops_per_s"] = known
    if self.peers.index == 0:
      run_record.write(workdir, self.record)
    self.peers.gather(None)  # the others wait whether it is refused

  def position(self, own: Mapping[str, Any]) -> dict[str, Any]:
    """Where the loaders of all processes are, from where this one's is; any
    process may go on from it."""
    group, _ = placement.process_rows(self.mesh)
    if self.peers.count == 1:
      return dict(own)
    # Processes with the same rows are at the same place.
    by_group = dict(self.peers.gather((group, own)))
    states = [by_group[group] for group in sorted(by_group)]
    return self.loader.merged(states)

  def init_state(self) -> state_lib.TrainState:
    """The state before the first step, on the devices."""
    init = functools.partial(init_state, self.experiment, self.tx)
    init = jax.jit(init, out_shardings=self.state_shardings)
    state = init(self._one_row, self.initial)
    self.initial.clear()  # they would take the memory of a second model
    return state

  @functools.cached_property
  def state_shapes(self) -> state_lib.TrainState:
    """The same as shapes, types and shardings."""
    init = functools.partial(begin, self.experiment, self.tx)
    return parameter_sharding.placed(
      jax.eval_shape(init, self.parameter_shapes),
      self.experiment.sharding,
      self.mesh,
    )

  @functools.cached_property
  def parameter_shapes(self):
    """Of the model, as shapes and types."""
    init = functools.partial(init_params, self.experiment)
    return jax.eval_shape(init, self._one_row)

  @property
  def state_shardings(self) -> state_lib.TrainState:
    return jax.tree.map(lambda x: x.sharding, self.state_shapes)

  @property
  def _one_row(self):
    # Enough to initialise a model; the whole batch would have to be moved.
    return jax.tree.map(lambda x: x[:1], self.loader.example().inputs)

  @property
  def arrays(self) -> dict[str, Any]:
    """Arrays that a step reads and does not change: an argument, so that no
    program holds a copy of them."""
    return {} if self.teacher is None else {"teacher": self.teacher}

  def compile_steps(self, state, metrics, report, sizes=None):
    """The train step for each patch size: {size: Step}."""

    packing = self.experiment.packing
    constant = packing is not None and packing.loss == "sum"
    images = self.images_per_step if constant else None

    def train_step(state, metrics, batch, read, *, patch_hw):
      def measure(*args, **kwargs):
        measured = self.measure(*args, patch_hw=patch_hw, **kwargs, **read)
        return self.numbers.with_loss_by_size(measured, patch_hw)

      return step.train_step(
        state,
        metrics,
        batch,
        measure=measure,
        tx=self.tx,
        images=images,
        beside=self.numbers.of_rows(batch),
        augment=self.augment if self.experiment.mix else None,
        accumulate=self.experiment.accumulate,
        ema=self.experiment.ema,
      )

    everywhere = placement.replicated(self.mesh)
    rows = placement.over_rows(self.mesh)
    sizes = sizes or self.experiment.programs
    batch = placement.shapes(self.loader.example(), self.mesh)
    with memory_report.explaining(self, sizes):
      compiled = compilation.compile_sizes(
        mesh_lib.on_mesh(train_step, self.mesh),
        sizes,
        arguments=(state, metrics, batch, self.arrays),
        jit_options={
          "in_shardings": (self.state_shardings, everywhere, rows, everywhere),
          "out_shardings": (self.state_shardings, everywhere),
          "donate_argnums": 0,
        },
        report=report,
        what="train step",
      )
    return {size: Step(x, self.arrays) for size, x in compiled.items()}

  @functools.cached_property
  def evaluation(self) -> validation_lib.Validation:
    """How its checkpoints are evaluated."""
    return validation_lib.of(self.experiment.task)

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

    def forward(params, batch, *, patch_hw):
      return self.evaluation.forward(
        self.experiment.task,
        self.experiment.model,
        params,
        self._in_order(batch, patch_hw),
        patch_hw=patch_hw,
      )

    return self._programs(forward, params, reading, report)

  def compile_pictures(self, params):
    """Programs by setting that draw a batch of validation images; of packed
    rows none, and none where the task does not draw."""
    task, reading = self.experiment.task, self.validation
    if reading is None or not hasattr(task, "draw"):
      return {}
    draw = functools.partial(task.draw, self.experiment.model)
    reading = reading.only(lambda view, _: not reading.is_packed(view))
    return self._programs(draw, params, reading, lambda line: None)

  def _programs(self, function, params, reading, report):
    function = mesh_lib.on_mesh(function, self.mesh)
    with memory_report.explaining_evaluation(self):
      return sweep.compile_programs(
        lambda setting: (function, params), [reading], self.mesh, report
      )

  @functools.cached_property
  def shown(self):
    """{setting: the first batch of its images}, of those that are drawn."""
    reading = self.validation
    reading = reading.only(lambda view, _: not reading.is_packed(view))
    found = {}
    for view, batch in reading.loader:
      if view not in found:
        found[view] = placement.to_devices(batch, self.mesh)
      if len(found) == len(reading.views):
        break
    return {s: found[v] for v, each in enumerate(reading.views) for s in each}
