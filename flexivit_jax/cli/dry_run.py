"""`train.py --dry_run`: what a config means and costs, and one batch of it."""

import time

import jax

from flexivit_jax import config
from flexivit_jax.core.faults import Fault
from flexivit_jax.core.text import align, format_bytes
from flexivit_jax.evaluation.sweep import size_name
from flexivit_jax.experiment import Experiment
from flexivit_jax.loaded import parameter_count
from flexivit_jax.nn import cost
from flexivit_jax.run import Run, costliest, prepare
from flexivit_jax.training import sharding


def run(experiment: Experiment) -> None:
  """Prints config and cost, trains on one batch, and writes nothing.

  Raises:
    ConfigError: what could not work.
    Fault: the batch's numbers are not finite, or memory ran out.
  """
  opened = prepare(experiment, print)
  try:
    for line in describe(opened):
      print(line)
    for line in try_one_batch(opened):
      print(line, flush=True)
  finally:
    opened.loader.close()


def describe(run: Run):
  """Lines: the resolved config, parameters, and the cost of each size."""
  for key, value in config.flatten(run.record["config"]).items():
    yield f"config.{key} = {value!r}"
  for name, data in run.record["data"].items():
    yield f"{name}: {data['images']} images, fingerprint {data['fingerprint']}"
  image_hw = run.loader.image_hw
  count = parameter_count(run.state_shapes.params)
  devices = run.mesh.size
  yield (
    f"{count:,} parameters, {run.total_steps} steps of "
    f"{run.experiment.batch_size} images of {image_hw[0]}x{image_hw[1]} px on "
    f"{devices} {run.mesh.devices.flat[0].device_kind} device"
    f"{'s' if devices > 1 else ''}"
  )
  rows = [("patch", "tokens", "GFLOPs per image", "activations", "in all")]
  for size in run.experiment.patch_size.sizes:
    needed = run.memory(size)
    operations = cost.multiply_adds(run.experiment.model, image_hw, size)
    rows.append(
      (
        size_name(size),
        str(cost.tokens(image_hw, size)),
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
  size = costliest(run.experiment.patch_size.sizes)
  messages = []
  state, metrics = run.init_state(), run.zero_metrics()
  (step,) = run.compile_steps(state, metrics, messages.append, [size]).values()
  measures = run.compile_measures(state.params, messages.append, [size])
  yield from messages
  batch = sharding.to_devices(next(run.loader), run.mesh)
  start = time.perf_counter()
  with run.explaining_memory([size]):
    state, metrics = jax.block_until_ready(step(state, metrics, batch))
  elapsed = time.perf_counter() - start
  if not state.finite.flag:
    raise Fault(
      f"the first step is not finite: loss {float(metrics['loss'])}, gradient "
      f"norm {float(metrics['gradient_norm'])}: check the data and "
      "config.optimizer"
    )
  numbers = "  ".join(f"{name} {float(x):.4g}" for name, x in metrics.items())
  yield f"one step at {size_name(size)}: {numbers}, {elapsed:.2f} s"
  for measure in measures.values():
    batch = sharding.to_devices(next(iter(run.validation)), run.mesh)
    with run.explaining_evaluation():
      numbers = jax.block_until_ready(measure(state.params, batch))
    shown = "  ".join(f"{name} {float(x):.4g}" for name, x in numbers.items())
    yield f"one evaluation batch at {size_name(size)}: {shown}"
