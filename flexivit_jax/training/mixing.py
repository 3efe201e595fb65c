"""Images of a batch mixed with each other, on the devices.

Acts on images of one size, before they are cut into patches, and on their
targets alike. One draw mixes a whole batch, each image with those in the rows
before it, as in big_vision.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp

from flexivit_jax.core.patch_pixels import to_unit_range
from flexivit_jax.core.tokens import Batch


class Mix(Protocol):
  """Mixes the images of a batch that has targets.

  Attributes:
    images: how many make one.
  """

  images: int

  def __call__(self, key: jax.Array, batch: Batch) -> Batch: ...


@dataclasses.dataclass(frozen=True)
class Mixup:
  """Weighted means of images (mixup, arXiv:1710.09412).

  The weights are drawn from a Dirichlet distribution, for two images a Beta
  distribution, and sorted: the image's own is the largest.

  Attributes:
    alpha: its parameter; the larger, the more equal the weights.
    images: how many make one.
    probability: of mixing a batch at all.
  """

  alpha: float = 0.2
  images: int = 2
  probability: float = 1.0

  def __post_init__(self):
    _check(self)
    if self.images < 2:
      raise ValueError(f"images is {self.images}: give 2 or more")

  def __call__(self, key, batch):
    draw, whether = jax.random.split(key)
    n = self.images
    weights = jax.random.dirichlet(draw, jnp.full(n, self.alpha, jnp.float32))
    weights = jnp.sort(weights, descending=True)
    own = jnp.zeros(n, jnp.float32).at[0].set(1)
    mixes = jax.random.bernoulli(whether, self.probability)
    weights = jnp.where(mixes, weights, own)

    def mix(x):
      return sum(w * jnp.roll(x, i, axis=0) for i, w in enumerate(weights))

    return _map_images(lambda x: mix(to_unit_range(x)), batch, mix)


@dataclasses.dataclass(frozen=True)
class CutMix:
  """A box of one image replaced by that of another (arXiv:1905.04899).

  Attributes:
    alpha: of the Beta distribution of the share that the image keeps; at 1 all
      shares are alike. A box that sticks out of the image takes less.
    probability: of mixing a batch at all.
  """

  alpha: float = 1.0
  probability: float = 1.0

  images: ClassVar[int] = 2

  def __post_init__(self):
    _check(self)

  def __call__(self, key, batch):
    of_share, of_centre, whether = jax.random.split(key, 3)
    share = jax.random.beta(of_share, self.alpha, self.alpha)
    side = jnp.sqrt(1 - share)
    mixes = jax.random.bernoulli(whether, self.probability)
    centre = jax.random.uniform(of_centre, (2,))
    low, high = centre - side / 2, centre + side / 2

    def box(x):
      """bool `[1, h, w, 1]`; images of other sizes have the same part of it."""
      inside = []
      for side, start, end in zip(x.shape[1:3], low, high, strict=True):
        at = (jnp.arange(side) + 0.5) / side
        inside.append((at >= start) & (at < end) & mixes)
      rows, cols = inside
      return (rows[:, None] & cols[None, :])[None, :, :, None]

    def paste(x):
      return jnp.where(box(x), jnp.roll(x, 1, axis=0), x)

    taken = box(batch.inputs).mean(dtype=jnp.float32)

    def mix(x):
      return (1 - taken) * x + taken * jnp.roll(x, 1, axis=0)

    return _map_images(paste, batch, mix)


def mix(mixes: Sequence[Mix], key: jax.Array, batch: Batch) -> Batch:
  """A batch mixed in one of these ways, drawn anew for each key.

  Args:
    batch: images of one size u8 `[b, h, w, c]`, with targets.

  Returns:
    The batch, images in [-1, 1].
  """
  choose, key = jax.random.split(key)
  i = jax.random.randint(choose, (), 0, len(mixes))

  def way(mix):
    # Branches must agree in type.
    return lambda key: _map_images(to_unit_range, mix(key, batch), lambda x: x)

  return jax.lax.switch(i, [way(x) for x in mixes], key)


def _map_images(change, batch, change_targets):
  second = batch.teacher_inputs
  return dataclasses.replace(
    batch,
    inputs=change(batch.inputs),
    teacher_inputs=None if second is None else change(second),
    targets=change_targets(batch.targets),
  )


def _check(mix):
  if not mix.alpha > 0:
    raise ValueError(f"alpha is {mix.alpha}: give more than 0")
  if not 0 < mix.probability <= 1:
    raise ValueError(
      f"probability is {mix.probability}: give more than 0, and at most 1"
    )
