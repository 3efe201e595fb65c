"""Representations of the same images at several patch sizes, by layer."""

from collections.abc import Iterable, Sequence

import jax.numpy as jnp
import numpy as np

from flexivit_jax.analysis import cka, layout
from flexivit_jax.analysis.activations import Activations
from flexivit_jax.core.resize import resize_grid
from flexivit_jax.core.tokens import Tokens
from flexivit_jax.nn import pooling
from flexivit_jax.nn.vit import ViT

# Fields of `Activations` that are read here.
NAMES = ("front", "patches")


def patch_layers(
  found: Activations, tokens: Tokens, grid_hw: tuple[int, int]
) -> list[list[np.ndarray]]:
  """For each image `[rows, cols, d]` at every layer: what the first block
  gets, then after each block.

  Each is scaled down to one grid, bilinearly with antialias, so that its
  features can be taken together, location by channel: a location is then
  compared with the same location, and what positions add, being the same for
  all images, falls out with the mean.

  Args:
    grid_hw: (rows, cols) of that grid, as of `common_grid`.
  """
  layers = [
    [
      resize_grid(image, grid_hw, antialias=True).astype(np.float32)
      for image in layout.to_images(tokens, np.asarray(x, np.float32))
    ]
    for x in found.patches
  ]
  return [list(image) for image in zip(*layers, strict=True)]


def pooled_layers(
  model: ViT, found: Activations, tokens: Tokens
) -> list[list[np.ndarray]]:
  """For each image `[d]` at every layer.

  The class token where it is what the head reads, after each block: before
  the first it is the same for all images. Else the mean of the patches, from
  what the first block gets on.
  """
  e = tokens.num_images
  if isinstance(model.pool, pooling.ClassToken):
    layers = [x[:, :: x.shape[1] // e] for x in found.front]
  else:
    layers = [
      pooling.average(jnp.asarray(x), tokens.segments, e) for x in found.patches
    ]
  layers = [np.asarray(x) for x in layers]
  return [
    [x[place.row, place.slot] for x in layers]
    for place in layout.places(tokens)
  ]


def common_grid(grids: Iterable[tuple[int, int]]) -> tuple[int, int]:
  """(rows, cols) of the coarsest grid, to which all can be scaled down."""
  rows, cols = zip(*grids)
  return min(rows), min(cols)


def grams(images: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
  """`cka.gram` of each layer, `[layers, n, n]`.

  Args:
    images: for each image its features at every layer.
  """
  return np.stack([cka.gram(np.stack(x)) for x in zip(*images, strict=True)])


def same_layer(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """CKA of each layer with the same layer at another size, `[layers]`.

  Args:
    a, b: grams, `[layers, n, n]`.
  """
  return np.einsum("lij,lij->l", a, b)


def by_chance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """The same of different images, `[layers]`: each of a with another one of b.

  What is left of CKA then is not of the images. It is small where features are
  few beside images, and grows towards 1 where they are many.
  """
  half = b.shape[-1] // 2
  return same_layer(a, np.roll(b, (half, half), axis=(1, 2)))
