"""JAX for the tests: eight simulated devices, no implicit rank promotion."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def float64():
  """Float64 arrays, for this test only."""
  with jax.enable_x64(True):
    yield
