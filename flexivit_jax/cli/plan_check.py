"""Compiles what was planned, and puts the compiler's plan beside it."""

import dataclasses

import jax

from flexivit_jax.cli.plan_workload import Planned
from flexivit_jax.config import build
from flexivit_jax.core import collectives
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.core.text import align, format_bytes
from flexivit_jax.run.memory_report import costliest
from flexivit_jax.run.open import prepare
from flexivit_jax.run.plan import table as table_lib
from flexivit_jax.run.plan.step_cost import Cost


def make_devices(count: int) -> None:
  """Simulates devices, if there are none but the CPU.

  Raises:
    ConfigError: there are devices, but not so many.
  """
  try:
    jax.config.update("jax_num_cpu_devices", count)
  except RuntimeError:  # JAX runs already
    pass
  found = jax.device_count()
  if found != count:
    kind = jax.devices()[0].device_kind
    raise ConfigError(
      f"--check needs {count} devices, but there are {found} of {kind}: give "
      f"--devices {found}, or JAX_PLATFORMS=cpu to simulate {count}"
    )


def check(path: str, overrides: list[str], planned: Planned, cost: Cost):
  """Lines: bytes of each device, planned and compiled.

  Args:
    path, overrides: of the config, as on the command line.
    cost: the plan to compile.
  """
  wanted = table_lib.settings(cost)
  experiment = build.load(path, [*overrides, *wanted])
  run = prepare(experiment, lambda _: None)
  messages: list[str] = []
  try:
    (compiled,) = run.compile_steps(
      run.state_shapes,
      run.zero_metrics(),
      messages.append,
      [costliest(experiment.programs)],
    ).values()
  finally:
    run.loader.close()
  yield from messages
  yield table(planned, cost, compiled.compiled)


def table(planned: Planned, cost: Cost, compiled: jax.stages.Compiled) -> str:
  """The plan beside the compiler's, on the platform that it compiled for."""
  platform = jax.default_backend()
  work = planned.workload(cost.layout, platform)
  cost = dataclasses.replace(cost, work=work)
  memory, found = cost.memory(planned.kernel_name), compiled.memory_analysis()
  held = memory.parameters + memory.optimizer
  pairs = {
    "parameters, optimizer": (held, found.argument_size_in_bytes),
    "the rest": (memory.total - held, found.temp_size_in_bytes),
    "sent in a step": (
      cost.sent,
      collectives.of_compiled(compiled.as_text()).total.bytes,
    ),
  }
  rows = [("of each device", "planned", f"compiled for {platform}", "ratio")]
  for name, (expected, real) in pairs.items():
    ratio = f"{expected / real:.2f}" if real else "-"
    rows.append(
      (name, *(format_bytes(int(x)) for x in (expected, real)), ratio)
    )
  return align(rows, left=1)
