"""Every patch size compiled before the first step."""

import contextlib
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator

import jax


def enable_persistent_cache() -> None:
  """Keeps compiled programs between processes.

  In `$JAX_COMPILATION_CACHE_DIR`, or else in `~/.cache/flexivit_jax/xla`.
  """
  if jax.config.jax_compilation_cache_dir is None:
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    directory = pathlib.Path(base) / "flexivit_jax" / "xla"
    jax.config.update("jax_compilation_cache_dir", str(directory))
  # The default, 1 s, would leave out the small models that are run often.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def compile_sizes(
  function: Callable,
  sizes: Iterable[tuple[int, int] | None],
  *,
  arguments: tuple,
  jit_options: dict,
  report: Callable[[str], None],
  what: str,
) -> dict[tuple[int, int] | None, Callable]:
  """Compiles `function(*arguments, patch_hw=size)` for each size.

  None stands for packed rows, whose patch sizes are data.

  Args:
    arguments: arrays or `jax.ShapeDtypeStruct`.
    jit_options: of `jax.jit`: shardings, donation.
    report: called with one line after each size.
    what: the function's name in that line.

  Returns:
    The compiled functions, which take arguments only and never trace again.
  """
  compiled = {}
  sizes = list(sizes)
  for i, size in enumerate(sizes, start=1):

    def at_size(*args, size=size):
      return function(*args, patch_hw=size)

    compiled[size], elapsed = timed(at_size, arguments, jit_options)
    inputs = "packed rows" if size is None else f"{size[0]}x{size[1]} patches"
    count = f" {i}/{len(sizes)}" if len(sizes) > 1 else ""
    report(f"compiled {what}{count}: {inputs}, {elapsed:.1f} s")
  return compiled


def timed(
  function: Callable, arguments: tuple, jit_options: dict
) -> tuple[jax.stages.Compiled, float]:
  """The function compiled for these arguments, and the seconds it took."""
  start = time.perf_counter()
  compiled = jax.jit(function, **jit_options).lower(*arguments).compile()
  return compiled, time.perf_counter() - start


def peak_bytes(compiled: jax.stages.Compiled) -> int:
  """What a compiled function takes of each device at most, by XLA's plan:
  arguments, results and temporaries."""
  plan = compiled.memory_analysis()
  return (
    plan.argument_size_in_bytes
    + plan.output_size_in_bytes
    + plan.temp_size_in_bytes
    - plan.alias_size_in_bytes
  )


@contextlib.contextmanager
def counting_saved_seconds() -> Iterator[Callable[[], float]]:
  """Gives a function that says how many seconds of compiling the persistent
  cache has saved since."""
  saved = [0.0]

  def listen(event, seconds, **_):
    if event == "/jax/compilation_cache/compile_time_saved_sec":
      saved[0] += seconds

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield lambda: saved[0]
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
