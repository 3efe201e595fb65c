"""Small models with random weights, and images on grids and in packed rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.core.tokens import Tokens, patchify
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid, relative, rotary

PATCH = (4, 6)
# Of 2x3, 4x2 and 1x2 patches.
GRIDS = ((2, 3), (4, 2), (1, 2))
PADDING = 3

POSITIONS = {
  "learned": learned_grid.LearnedGrid((3, 3)),
  "rotary": rotary.Rotary(),
  "relative": relative.Relative((3, 2)),
}
POOLS = {
  "gap": pooling.Gap(),
  "map": pooling.Map(),
  "tok": pooling.ClassToken(),
}


def model(position="learned", pool="gap", **changes):
  fields = {
    "size": encoder.Size(16, 2, 32, 2),
    "position": POSITIONS[position],
    "pool": POOLS[pool],
    "kernel_hw": (6, 6),
    "num_classes": 5,
  }
  return vit.ViT(**fields | changes)


@functools.cache
def images():
  rng = np.random.default_rng(0)
  return [rng.integers(0, 256, (4 * h, 6 * w, 3), np.uint8) for h, w in GRIDS]


def grid(count=2):
  """Images of one size: those of 2x3 patches."""
  rng = np.random.default_rng(3)
  pixels = rng.integers(0, 256, (count, 8, 18, 3), np.uint8)
  return patchify(pixels, PATCH)


def packed(*, shuffle=False, rows=1):
  """All images in a row, with an empty slot and padding; other rows have them
  in another order.

  Args:
    shuffle: whether the tokens of a row, padding too, are in random order.
  """
  rng = np.random.default_rng(4)
  numbers = 4 * 6 * 3
  columns = []
  for row in range(rows):
    order = np.roll(np.arange(len(GRIDS)), row)
    parts = [
      jax.tree.map(np.asarray, patchify(images()[i][None], PATCH))
      for i in order
    ]
    length = sum(p.patches.shape[1] for p in parts) + PADDING
    patches = np.full((length, numbers), 99, np.uint8)
    coords = np.zeros((length, 2), np.int32)
    grid_hw = np.ones((length, 2), np.int32)
    segments = np.zeros(length, np.int32)
    start = 0
    for slot, part in enumerate(parts):
      own = slice(start, start + part.patches.shape[1])
      coords[own], grid_hw[own] = part.coords[0], part.grid_hw[0]
      # The second slot of four is empty.
      segments[own] = (1, 3, 4)[slot]
      patches[own] = part.patches[0]
      start = own.stop
    chosen = rng.permutation(length) if shuffle else np.arange(length)
    columns.append([x[chosen] for x in (patches, coords, grid_hw, segments)])
  patches, coords, grid_hw, segments = map(np.stack, zip(*columns))
  return jax.tree.map(
    jnp.asarray,
    Tokens(
      patches=patches,
      coords=coords,
      grid_hw=grid_hw,
      segments=segments,
      patch_sizes=(PATCH,),
      num_images=4,
    ),
  )


@functools.cache
def params(of):
  shapes = jax.eval_shape(lambda: of.init(jax.random.key(0), grid(1)))
  rng = np.random.default_rng(1)
  # All of them random: fresh heads and biases are zeros.
  return jax.tree.map(
    lambda x: (0.3 * rng.normal(size=x.shape)).astype(x.dtype),
    shapes["params"],
  )


def alone(image):
  """An image of `images` on a grid of its own."""
  return patchify(image[None], PATCH)
