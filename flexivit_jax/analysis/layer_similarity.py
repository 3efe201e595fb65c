"""Representations of the same images at several patch sizes, by layer."""

from collections.abc import Mapping, Sequence

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


def patch_layers(found: Activations, tokens: Tokens) -> list[list[np.ndarray]]:
  """For each image `[rows, cols, d]` at every layer: what the first block
  gets, then after each block."""
  layers = [layout.to_images(tokens, x) for x in found.patches]
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


def common_grid(
  sizes: Mapping[tuple[int, int], Sequence[Sequence[np.ndarray]]],
) -> tuple[int, int]:
  """(rows, cols) of the coarsest grid, to which all can be scaled down.

  Args:
    sizes: for each patch size the `patch_layers` of all images.
  """
  shapes = [layers[0].shape for images in sizes.values() for layers in images]
  rows, cols, _ = np.min(shapes, axis=0).tolist()
  return rows, cols


def patch_grams(
  images: Sequence[Sequence[np.ndarray]], grid_hw: tuple[int, int]
) -> np.ndarray:
  """`cka.gram` of each layer, `[layers, n, n]`, of patches.

  Each image's patches are scaled down to one grid, bilinearly with antialias,
  and are its features together: location by channel. So a location is compared
  with the same location, and what positions add, being the same for all
  images, falls out with the mean.
  """
  layers = zip(*images, strict=True)
  return np.stack(
    [
      cka.gram(
        np.stack(
          [resize_grid(np.float64(x), grid_hw, antialias=True) for x in layer]
        )
      )
      for layer in layers
    ]
  )


def pooled_grams(images: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
  """`cka.gram` of each layer, `[layers, n, n]`, of pooled vectors."""
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
