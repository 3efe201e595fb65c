"""The tree of a model's parameters: names, shapes, stacked layers."""

import contextlib
from collections.abc import Mapping

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.checkpoints import shapes as shapes_lib
from flexivit_jax.core.tokens import patchify
from flexivit_jax.models import vit

BLOCKS = "Transformer/encoderblock"
ATTENTION = "MultiHeadDotProductAttention_0"


@contextlib.contextmanager
def naming(path):
  """Puts the path before what a module says of its own values."""
  try:
    yield
  except ValueError as e:
    raise ValueError(f"{path}: {e}") from e


def of_rank(arrays: Mapping, name: str, rank: int, path):
  """The array, or None where there is none.

  Raises:
    ValueError: it has another rank.
  """
  array = arrays.get(name)
  if array is not None and array.ndim != rank:
    raise ValueError(
      f"{path}: {name} has shape {array.shape}, and rank {rank} in every ViT"
    )
  return array


def shapes(model: vit.ViT) -> dict[str, jax.ShapeDtypeStruct]:
  """{our name: shape and type} of what the model would initialise."""
  # One traced block stands for all.
  scanned = model.clone(scan=True)
  kh, kw = model.stored_patch_hw
  image = jax.ShapeDtypeStruct((1, kh, kw, model.channels), jnp.uint8)

  def init(image):
    return scanned.init(jax.random.key(0), patchify(image, (kh, kw)))["params"]

  flat = flax.traverse_util.flatten_dict(jax.eval_shape(init, image), sep="/")
  return dict(flat) if model.scan else unstack(flat, model.size.depth)


def check(model: vit.ViT, arrays: Mapping[str, np.ndarray], path) -> None:
  """Compares names and shapes with what the model would initialise.

  Raises:
    ValueError: with a table of what differs, in both directions.
  """
  with naming(path):
    wanted = shapes(model)
  shapes_lib.check_shapes(arrays, wanted, path)
  for name, array in arrays.items():
    if not jnp.issubdtype(array.dtype, jnp.floating):
      raise ValueError(f"{path}: {name} is {array.dtype}, not floating point")


def unstack(arrays: Mapping, depth: int) -> dict:
  """`encoderblock/x` with a leading depth axis as `encoderblock_{i}/x`.

  Views of numpy arrays; shapes of shapes.
  """
  flat = {}
  for name, array in arrays.items():
    rest = name.removeprefix(f"{BLOCKS}/")
    if rest == name:
      flat[name] = array
      continue
    for i in range(depth):
      if isinstance(array, jax.ShapeDtypeStruct):
        layer = jax.ShapeDtypeStruct(array.shape[1:], array.dtype)
      else:
        layer = array[i]
      flat[f"{BLOCKS}_{i}/{rest}"] = layer
  return flat


def stack(arrays: Mapping[str, np.ndarray], depth: int) -> dict:
  """The inverse of `unstack`."""
  flat = {k: v for k, v in arrays.items() if not k.startswith(f"{BLOCKS}_")}
  for name in arrays:
    if (rest := name.removeprefix(f"{BLOCKS}_0/")) != name:
      layers = [arrays[f"{BLOCKS}_{i}/{rest}"] for i in range(depth)]
      flat[f"{BLOCKS}/{rest}"] = np.stack(layers)
  return flat
