"""Small models, and checkpoints of random numbers."""

import jax
import numpy as np

from flexivit_jax.checkpoints.formats import parameters
from flexivit_jax.checkpoints.model import StoredModel, on_device
from flexivit_jax.checkpoints.origin import Spec
from flexivit_jax.models import vit
from flexivit_jax.nn import encoder, pooling
from flexivit_jax.nn.positions import learned_grid


def tiny(**changes):
  """The smallest model that has something of everything."""
  fields = dict(
    size=encoder.Size(8, 2, 12, 2),
    position=learned_grid.LearnedGrid((3, 3)),
    pool=pooling.Gap(),
    kernel_hw=(4, 4),
    num_classes=5,
  )
  return vit.ViT(**(fields | changes))


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
  return StoredModel(model, arrays(model), spec)


def logits(model, arrays, images, patch_size=16):
  """What a model with these arrays computes, at the highest precision."""
  loaded = on_device(StoredModel(model, dict(arrays), Spec("test", "made up")))
  with jax.default_matmul_precision("highest"):
    return np.asarray(loaded(images, patch_size=patch_size))
