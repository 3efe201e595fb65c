"""JAX for the tests: eight simulated devices and one compilation cache."""

import os
import pathlib

import jax

MIN_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
MIN_BYTES = "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"


def simulate_devices() -> None:
  """Eight CPU devices, and no implicit rank promotion."""
  jax.config.update("jax_num_cpu_devices", 8)
  jax.config.update("jax_numpy_rank_promotion", "raise")


def cache_environment() -> dict[str, str]:
  """Variables that make a process share compiled programs with all others.

  In `$JAX_COMPILATION_CACHE_DIR`, or else in `~/.cache/flexivit_jax/xla-tests`.
  """
  directory = os.environ.get("JAX_COMPILATION_CACHE_DIR")
  if directory is None:
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    directory = pathlib.Path(base) / "flexivit_jax" / "xla-tests"
  return {
    "JAX_COMPILATION_CACHE_DIR": str(directory),
    MIN_SECONDS: "0",
    MIN_BYTES: "-1",
  }


def share_compilations() -> None:
  """Makes this process one that shares. Training sets a minimum of its own, so
  it is called again after that."""
  found = cache_environment()
  jax.config.update(
    "jax_compilation_cache_dir", found["JAX_COMPILATION_CACHE_DIR"]
  )
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
