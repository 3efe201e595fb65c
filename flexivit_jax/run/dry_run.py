"""`train.py --dry_run`: what a config means and costs, and one batch of it."""

import time

import jax

from flexivit_jax.checkpoints.model import parameter_count
from flexivit_jax.config import overrides
from flexivit_jax.config.experiment import Experiment
from flexivit_jax.core.errors import Fault
from flexivit_jax.core.sizes import size_name
from flexivit_jax.core.text import align, format_bytes
from flexivit_jax.devices import placement
from flexivit_jax.devices.processes import ALONE, Processes
from flexivit_jax.models import cost
from flexivit_jax.run import memory_report
from flexivit_jax.run.open import prepare
from flexivit_jax.run.programs import Run


def run(experiment: Experiment, peers: Processes = ALONE) -> None:
  """Prints config and cost, trains on one batch, and writes nothing.

  Args:
    peers: the processes that do it together.

  Raises:
    ConfigError: what could not work.
    Fault: the batch's numbers are not finite, or memory ran out.
  """
  opened = prepare(experiment, print, peers=peers)
  try:
    for line in describe(opened):
      print(line)
    for line in try_one_batch(opened):
      print(line, flush=True)
  finally:
    opened.loader.close()


def describe(run: Run):
  """Lines: the resolved config, parameters, and the cost of each size."""
  for key, value in overrides.flatten(run.record["config"]).items():
    yield f"config.{key} = {value!r}"
  for name, data in run.record["data"].items():
    images = f"{data['images']} images, " if "images" in data else ""
    yield f"{name}: {images}fingerprint {data['fingerprint']}"
  experiment, packing = run.experiment, run.experiment.packing
  count = parameter_count(run.state_shapes.params)
  devices = run.mesh.size
  if packing is None:
    h, w = run.loader.image_hw
    what = f"{experiment.batch_size} images of {h}x{w} px"
  else:
    what = (
      f"{experiment.batch_size} rows of {packing.row_length} patches and about "
      f"{run.images_per_step:.0f} images"
    )
  yield (
    f"{count:,} parameters, {run.total_steps} steps of {what} on "
    f"{devices} {run.mesh.devices.flat[0].device_kind} device"
    f"{'s' if devices > 1 else ''}"
  )
  length = "tokens" if packing is None else "tokens of a row"
  rows = [("patch", length, "GFLOPs per image", "activations", "in all")]
  for size in experiment.programs:
    needed = memory_report.estimate(run, size)
    if packing is None:
      name, tokens = size_name(size), cost.tokens(run.loader.image_hw, size)
      operations = experiment.task.multiply_adds(
        experiment.model, run.loader.image_hw, size
      )
    else:
      name = ",".join(map(size_name, experiment.patch_size.sizes))
      tokens = cost.packed_row_length(
        experiment.model, packing.row_length, packing.max_images
      )
      operations = experiment.task.packed_multiply_adds(
        experiment.model,
        packing.row_length,
        packing.max_images,
        experiment.patch_size.sizes,
      ) / (run.images_per_step / experiment.batch_size)
    rows.append(
      (
        name,
        str(tokens),
        f"{operations / 1e9:.3g}",
        format_bytes(needed.activations),
        format_bytes(needed.total),
      )
    )
  yield align(rows)
  yield (
    "FLOPs are multiply-adds of a forward pass, as in papers. Memory is an "
    "estimate for a training step,"
  )
  yield (
    f"on each device; of it parameters {format_bytes(needed.parameters)}, "
    f"gradients {format_bytes(needed.gradients)}, optimiser state "
    f"{format_bytes(needed.optimizer)}."
  )


def try_one_batch(run: Run):
  """Lines: one training step and one evaluation batch at the costliest size.

  Raises:
    Fault: the numbers are not finite, or memory ran out.
  """
  size = memory_report.costliest(run.experiment.programs)
  messages = []
  state, metrics = run.init_state(), run.zero_metrics()
  (step,) = run.compile_steps(state, metrics, messages.append, [size]).values()
  programs = run.compile_evaluation(state.evaluated, messages.append, [size])
  yield from messages
  run.peers.gather(None)  # until all have compiled
  batch = placement.to_devices(next(run.loader), run.mesh)
  start = time.perf_counter()
  with memory_report.explaining(run, [size]):
    state, metrics = jax.block_until_ready(step(state, metrics, batch))
  elapsed = time.perf_counter() - start
  if not state.finite.flag:
    raise Fault(
      f"the first step is not finite: loss {float(metrics['loss'])}, gradient "
      f"norm {float(metrics['gradient_norm'])}: check the data and "
      "config.optimizer"
    )
  names = (*run.numbers.metrics, "gradient_norm")
  numbers = "  ".join(f"{name} {float(metrics[name]):.4g}" for name in names)
  at = "packed rows" if size is None else size_name(size)
  yield f"one step at {at}: {numbers}, {elapsed:.2f} s"
  if not programs:
    return
  batches = {}  # the first of each view
  for view, batch in run.validation.loader:
    batches.setdefault(view, batch)
    if len(batches) == len(run.validation.views):
      break
  for view, settings in enumerate(run.validation.views):
    for setting in programs.keys() & settings:
      batch = placement.to_devices(batches[view], run.mesh)
      with memory_report.explaining_evaluation(run):
        found = programs[setting].call(state.evaluated, batch)
      found = run.evaluation.rows(run.evaluation.gather([found]))
      numbers = "  ".join(f"{k} {v:.4g}" for k, v in found.items())
      yield f"one evaluation batch at {setting.short_name}: {numbers}"
