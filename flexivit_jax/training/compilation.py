"""Every patch size compiled before the first step."""

import os
import pathlib
import time
from collections.abc import Callable, Iterable

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
  packed: str = "packed rows",
) -> dict[tuple[int, int] | None, Callable]:
  """Compiles `function(*arguments, patch_hw=size)` for each size.

  None stands for packed rows, whose patch sizes are data.

  Args:
    arguments: arrays or `jax.ShapeDtypeStruct`.
    jit_options: of `jax.jit`: shardings, donation.
    report: called with one line after each size.
    what: the function's name in that line.
    packed: what None is called there.

  Returns:
    The compiled functions, which take arguments only and never trace again.
  """
  compiled = {}
  sizes = list(sizes)
  for i, size in enumerate(sizes, start=1):
    start = time.perf_counter()

    def at_size(*args, size=size):
      return function(*args, patch_hw=size)

    compiled[size] = jax.jit(at_size, **jit_options).lower(*arguments).compile()
    elapsed = time.perf_counter() - start
    inputs = packed if size is None else f"{size[0]}x{size[1]} patches"
    count = f" {i}/{len(sizes)}" if len(sizes) > 1 else ""
    report(f"compiled {what}{count}: {inputs}, {elapsed:.1f} s")
  return compiled
