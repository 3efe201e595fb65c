"""The one small ViT of the tests, its random parameters and its images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.core.tokens import Tokens, patchify
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid

SIDE = 24
PATCHES = ((6, 6), (12, 12))
BATCH = 8
CLASSES = 4
TINY = {
  "size": encoder.Size(width=32, depth=2, mlp_dim=64, num_heads=4),
  "position": learned_grid.LearnedGrid((4, 4)),
  "pool": pooling.Gap(),
  "kernel_hw": (8, 8),
  "num_classes": CLASSES,
}


@functools.cache
def tiny(**fields) -> vit.ViT:
  """The model with some fields changed; equal fields are one object."""
  return vit.ViT(**TINY | fields)


@functools.cache
def images(count: int = BATCH, side: int = SIDE, seed: int = 0) -> np.ndarray:
  """u8 `[count, side, side, 3]`."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, side, side, 3), np.uint8)


def tokens(patch_hw=PATCHES[0], **kwargs) -> Tokens:
  """The images as rows of patches."""
  return patchify(images(**kwargs), patch_hw)


@functools.cache
def parameters(model: vit.ViT, seed: int = 0, scale: float = 0.1):
  """Parameters that are all random: fresh heads and biases are zeros."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens(count=1))
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(scale * rng.standard_normal(x.shape), x.dtype),
    shapes["params"],
  )


@functools.partial(jax.jit, static_argnums=0)
def apply(model: vit.ViT, params, tokens: Tokens) -> vit.Outputs:
  """The model's outputs; equal models and shapes compile once in a process."""
  return model.apply({"params": params}, tokens)
