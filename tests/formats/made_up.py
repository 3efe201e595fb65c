"""Checkpoints of random numbers."""

import numpy as np

from flexivit_jax.formats import parameters
from flexivit_jax.loaded import Checkpoint, Spec


def arrays(model, dtype=np.float32):
  """{our name: array} with other numbers, of order 0.2, in every place."""
  rng = np.random.default_rng(1)
  return {
    name: (0.2 * rng.normal(size=x.shape)).astype(dtype)
    for name, x in parameters.shapes(model).items()
  }


def checkpoint(model, classes=()):
  """A checkpoint for the size at which its patch embedding is stored."""
  spec = Spec("test", "made up", patch_size=model.kernel_hw, classes=classes)
  return Checkpoint(model, arrays(model), spec)
