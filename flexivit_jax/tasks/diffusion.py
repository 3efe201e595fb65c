"""Diffusion: learning to take noise out of images.

The diffusion transformer of DiT (arXiv:2212.09748): the encoder, conditioned
on time and class, and a linear map from each token to the numbers of its patch.
The variance is not learned.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from flexivit_jax.core import image_rng
from flexivit_jax.core.cut import to_tokens
from flexivit_jax.core.errors import check
from flexivit_jax.core.metric import Metric
from flexivit_jax.core.patch_pixels import (
  mean_over_patch,
  own_pixels,
  to_unit_range,
)
from flexivit_jax.core.tokens import Batch, Tokens, patchify, unpatchify
from flexivit_jax.devices.mesh import MeshSpec
from flexivit_jax.models import cost
from flexivit_jax.models.vit import ViT
from flexivit_jax.nn import adaln, pooling
from flexivit_jax.nn.adaln import TimeAndClass
from flexivit_jax.nn.heads import pixel_head
from flexivit_jax.nn.heads.pixel_head import PixelHead
from flexivit_jax.tasks import diffusion_checks
from flexivit_jax.tasks import noise as noise_lib
from flexivit_jax.tasks import sampler as sampler_lib
from flexivit_jax.tasks.pack_metrics import loss_by_patch_size
from flexivit_jax.tasks.task import refuse_strided

# Of the task's own parameters.
OWN, CONDITION, PIXELS = "diffusion", "condition", "pixels"
# What is drawn: rows of so many of the first classes.
CLASSES, COLUMNS = 10, 8


@dataclasses.dataclass(frozen=True)
class Diffusion:
  """Learning to denoise.

  Attributes:
    schedule: how much noise there is at each time.
    predicts: what the model answers.
    class_dropout: share of training images whose class is left out, as
      guidance needs it.
    num_classes: None: as many as the data has; 0: classes are not told.
    sampler: of the pictures that are drawn at each evaluation.
  """

  schedule: noise_lib.NoiseSchedule = noise_lib.LinearNoise()
  predicts: noise_lib.Prediction = noise_lib.PredictNoise()
  class_dropout: float = 0.1
  num_classes: int | None = None
  sampler: sampler_lib.Sampler = sampler_lib.Sampler()

  # In the halves of the times too: details are learned with little noise.
  metrics = ("loss", "loss_little_noise", "loss_much_noise")
  own_parameters: ClassVar[tuple[str, ...]] = (OWN,)
  classifies: ClassVar[bool] = False
  used_by: ClassVar[str] = (
    "python -m flexivit_jax sample --checkpoint {run} --output {run}/samples"
  )

  def __post_init__(self):
    check("class_dropout", self.class_dropout, at_least=0, below=1)
    check("num_classes", self.num_classes, at_least=0)
    self.sampler.check(self.schedule)

  def for_classes(self, model: ViT, classes: tuple[str, ...]):
    """As `task.Task`."""
    wanted = diffusion_checks.num_classes(self, model, classes)
    model = model.clone(num_classes=0)
    return model, dataclasses.replace(self, num_classes=wanted)

  def check_run(self, mesh: MeshSpec, patch_sizes, *, packed: bool) -> None:
    """As `task.Task`."""
    del patch_sizes, packed
    refuse_strided(mesh)

  def check_grid(self, image_hw, patch_hw) -> None:
    """As `task.Task`: refuses nothing."""

  def init(self, model: ViT, key: jax.Array, inputs, patch_hw):
    """As `task.Task`."""

    def init(inputs):
      tokens = to_tokens(inputs, patch_hw)
      params = model.init(key, tokens)["params"]
      none = jnp.zeros((1, 1), jnp.int32)
      condition_key, pixels_key = jax.random.split(
        image_rng.key_for("diffusion", key)
      )
      vectors = jnp.zeros((*tokens.patches.shape[:2], model.size.width))
      own = {
        CONDITION: self._conditions(model).init(condition_key, none, none),
        PIXELS: self._head(model).init(pixels_key, vectors, tokens),
      }
      return params | {OWN: {name: x["params"] for name, x in own.items()}}

    return jax.jit(init)(inputs)

  def measure(
    self,
    model: ViT,
    params,
    batch: Batch,
    *,
    patch_hw: tuple[int, int] | None,
    dropout_key: jax.Array | None = None,
  ) -> dict[str, Metric]:
    """As `task.Task`: the mean square over an image's numbers in [-1, 1].

    An image has the same time and noise in packs and alone, at one patch size.
    """
    if batch.labels.ndim > 2:
      raise ValueError(
        "the data's images may have several labels, and diffusion is told one "
        "class: give data with one label for each image"
      )
    tokens = to_tokens(batch.inputs, patch_hw)
    real = own_pixels(tokens)
    times, labels, noise = self._drawn(batch, tokens, dropout_key)
    x = jnp.where(real, to_unit_range(tokens.patches), 0)
    noise = jnp.where(real, noise, 0)
    level = noise_lib.level_at(self.schedule, times[..., None])
    level = noise_lib.Level(
      *(adaln.of_tokens(x, tokens.segments) for x in level)
    )
    noised = dataclasses.replace(
      tokens, patches=noise_lib.add_noise(x, noise, level)
    )
    answer = self._answer(model, params, noised, times, labels, dropout_key)
    error = answer - self.predicts.target(x, noise, level)
    error = mean_over_patch(jnp.square(error), real)[..., None]
    loss = pooling.average(error, tokens.segments, tokens.num_images)[..., 0]
    much = 2 * times >= self.schedule.steps
    much = jnp.where(much, batch.weights, 0)
    return {
      "loss": Metric.of(loss, batch.weights),
      "loss_little_noise": Metric.of(loss, batch.weights - much),
      "loss_much_noise": Metric.of(loss, much),
    } | loss_by_patch_size(loss, batch)

  def _drawn(self, batch, tokens, dropout_key):
    """Times and told classes `[b, e]`, and noise of the tokens."""

    def keys(name):
      key = image_rng.key_for(f"diffusion {name}", dropout_key)
      return image_rng.image_keys(key, batch.index)

    steps = self.schedule.steps
    times = (image_rng.of_images(keys("time")) * steps).astype(jnp.int32)
    times = jnp.minimum(times, steps - 1)
    labels = jnp.maximum(batch.labels, 0)
    if dropout_key is not None and self.class_dropout:
      dropped = image_rng.of_images(keys("class")) < self.class_dropout
      labels = jnp.where(dropped, self.num_classes, labels)
    noise = image_rng.normal_of_tokens(keys("noise"), tokens)
    return times, labels, noise

  def sample(
    self,
    model: ViT,
    params,
    labels: jax.Array,
    keys: jax.Array,
    *,
    image_hw: tuple[int, int],
    patch_hw: tuple[int, int],
    sampler: sampler_lib.Sampler | None = None,
  ) -> jax.Array:
    """Images of these classes.

    Args:
      labels: i32 `[n]`; the number of classes stands for none.
      keys: `[n]`: all that is random of an image, whatever others it is with.
      sampler: None: the task's.

    Returns:
      f32 `[n, h, w, c]`, data as the model was shown it: in [-1, 1] of pixels.
    """
    sampler = self.sampler if sampler is None else sampler
    n, guides = len(labels), sampler.guidance != 1
    tokens = patchify(jnp.zeros((1, *image_hw, model.channels)), patch_hw)
    shape = tokens.patches.shape[1:]

    def noise(number):
      def of(key):
        return jax.random.normal(jax.random.fold_in(key, number), shape)

      return jax.vmap(of)(keys)

    if guides:
      labels = jnp.concatenate(
        [labels, jnp.full_like(labels, self.num_classes)]
      )

    def denoise(z, time):
      z = jnp.concatenate([z, z]) if guides else z
      answer = self._answer(
        model,
        params,
        dataclasses.replace(tokens, patches=z),
        jnp.broadcast_to(time, (len(z), 1)),
        labels[:, None],
      )
      if not guides:
        return answer
      return sampler_lib.guided(answer[:n], answer[n:], sampler.guidance)

    found = sampler_lib.sample(
      denoise,
      noise(0),
      lambda number: noise(number + 1),
      schedule=self.schedule,
      predicts=self.predicts,
      sampler=sampler,
    )
    return unpatchify(found, image_hw, patch_hw)

  def draw(
    self, model: ViT, params, batch: Batch, *, patch_hw: tuple[int, int]
  ) -> jax.Array:
    """As `task.Draws`: images of the first classes, a row for each."""
    rows = min(self.num_classes or 1, CLASSES)
    labels = jnp.repeat(jnp.arange(rows, dtype=jnp.int32), COLUMNS)
    keys = jax.random.split(
      image_rng.key_for("diffusion draw", None), len(labels)
    )
    images = self.sample(
      model,
      params,
      labels,
      keys,
      image_hw=batch.inputs.shape[1:3],
      patch_hw=patch_hw,
    )
    return visible(images).reshape(rows, COLUMNS, *images.shape[1:3], -1)

  def multiply_adds(self, model: ViT, image_hw, patch_hw):
    """As `task.Task`."""
    patches = cost.tokens(image_hw, patch_hw)
    return self.packed_multiply_adds(model, patches, 1, (patch_hw,))

  def packed_multiply_adds(self, model: ViT, patches, num_images, patch_sizes):
    """As `task.Task`."""
    width = model.size.width
    of_model = cost.packed_multiply_adds(
      model.clone(num_classes=0), patches, num_images, patch_sizes
    )
    of_patch = pixel_head.multiply_adds(
      width, model.kernel_hw, model.channels, patch_sizes
    )
    of_image = adaln.multiply_adds(width)
    return of_model + patches * of_patch + num_images * of_image

  def _answer(
    self, model, params, tokens: Tokens, times, labels, dropout_key=None
  ):
    """What the model answers to noised tokens: f32 `[b, l, n]`."""
    params = dict(params)
    own = params.pop(OWN)
    condition = self._conditions(model).apply(
      {"params": own[CONDITION]}, times, labels
    )
    train = dropout_key is not None
    out = model.apply(
      {"params": params},
      tokens,
      condition=condition,
      train=train,
      rngs={"dropout": dropout_key} if train else None,
    )
    return self._head(model).apply({"params": own[PIXELS]}, out.encoded, tokens)

  def _conditions(self, model):
    return TimeAndClass(model.size.width, self.num_classes or 0)

  def _head(self, model):
    # Zeros: what is answered at first is the mean of what is asked.
    dtype = jnp.dtype(model.dtype)
    return PixelHead(model.kernel_hw, model.channels, dtype, zero_init=True)


def visible(images: jax.Array) -> jax.Array:
  """u8 of data clipped to [-1, 1]: of 1 channel, or of the first three."""
  c = images.shape[-1]
  if c not in (1, 3):
    images = images[..., : 3 if c > 3 else 1]
  scaled = jnp.round((jnp.clip(images, -1, 1) + 1) * 127.5)
  return scaled.astype(jnp.uint8)
