"""Checkpoints with the numbers that their own programs gave for them."""

import functools
import pathlib

import jax
import numpy as np

DATA = pathlib.Path(__file__).parents[1] / "data"


@functools.cache
def read(name):
  """(arrays under their own names, images, logits) of a file in tests/data."""
  with np.load(DATA / f"{name}.npz") as file:
    golden = dict(file)
  prefix = "state_dict/"
  arrays = {
    k.removeprefix(prefix): x for k, x in golden.items() if k.startswith(prefix)
  }
  return arrays, golden["images_uint8"], golden["logits"]


def error(vit, images, logits):
  """Largest difference of a model's logits to the reference."""
  with jax.default_matmul_precision("highest"):
    return float(np.abs(np.asarray(vit(images)) - logits).max())
