"""Masked autoencoding: an encoder learns from images without labels.

Most patches of an image are hidden, the encoder sees the others alone, and a
light decoder answers the pixels of the hidden ones (He et al.,
arXiv:2111.06377).
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from flexivit_jax.core import image_rng, masking
from flexivit_jax.core.cut import to_tokens
from flexivit_jax.core.metric import Metric
from flexivit_jax.core.tokens import Batch, Tokens, grid_shape, unpatchify
from flexivit_jax.devices.mesh import MeshSpec
from flexivit_jax.models import cost
from flexivit_jax.models.vit import ViT
from flexivit_jax.nn import adaln, pooling
from flexivit_jax.nn.heads import pixel_head
from flexivit_jax.nn.heads.mae_decoder import DecoderSpec
from flexivit_jax.nn.positions import position as position_lib
from flexivit_jax.nn.positions.position import OfWholeGrid
from flexivit_jax.nn.stems import stem
from flexivit_jax.tasks import mae_target
from flexivit_jax.tasks.pack_metrics import loss_by_patch_size
from flexivit_jax.tasks.task import refuse_strided

DECODER = "mae_decoder"
# Images that `draw` shows.
SHOWN = 8


@dataclasses.dataclass(frozen=True)
class MaskedAutoencoder:
  """Masked autoencoding, of images of one size and of packed rows.

  The loss is the mean squared error over the numbers of each hidden patch, the
  mean over an image's hidden patches, the mean over images. An image with
  nothing hidden, of one patch, counts nowhere.

  relative_loss is the sum of the loss over the sum of what the mean predictor
  loses: it answers every hidden patch with the mean of its own pixels (target
  "patch") or of the image's ("image", "pixels"). It knows these means though
  they are of hidden pixels; it knows nothing of places, so where all images
  are alike at a place, as the dark rim of digits is, a constant for each place
  falls below 1 too.

  Attributes:
    mask_ratio: share of an image's patches that is hidden: all but
      `masking.num_visible`.
    decoder: its size and positions.
    target: what is answered: "patch": pixels normalised by the mean and the
      deviation of their patch, as in the paper's best; "image": by those of
      the image; "pixels": in [-1, 1], as they are (`targets.of`).
  """

  mask_ratio: float = 0.75
  decoder: DecoderSpec = DecoderSpec()
  target: str = mae_target.PATCH

  metrics = ("loss", "relative_loss")
  own_parameters: ClassVar[tuple[str, ...]] = (DECODER,)
  classifies: ClassVar[bool] = False
  used_by: ClassVar[str] = "python -m flexivit_jax few-shot --checkpoint {run}"

  def __post_init__(self):
    if not 0 < self.mask_ratio < 1:
      raise ValueError(
        f"mask_ratio is {self.mask_ratio}: give more than 0 and less than 1, "
        "0.75 say"
      )
    if self.target not in mae_target.KINDS:
      raise ValueError(
        f"target {self.target!r}: give {', '.join(mae_target.KINDS[:-1])} or "
        f"{mae_target.KINDS[-1]}"
      )

  def for_classes(self, model: ViT, classes: tuple[str, ...]):
    """As `Task`: no head, whatever the classes.

    Raises:
      ValueError: the model has parameters that this task cannot train.
    """
    del classes
    if model.num_classes:
      raise ValueError(
        f"config.model.num_classes is {model.num_classes}, but the task mae "
        "has no classes: leave it out, or give 0"
      )
    if not isinstance(model.stem, stem.NoStem):
      raise ValueError(
        "config.model.stem takes whole images, and the task mae hides most of "
        'each: take stem="none"'
      )
    if isinstance(model.conditioning, adaln.AdaLNZero):
      raise ValueError(
        "config.model.conditioning is adaln_zero, and the task mae has nothing "
        'to tell the blocks: give config.model.conditioning="none"'
      )
    problem = None
    if isinstance(model.pool, pooling.Map):
      problem = 'pool is "map"', 'take pool="gap" or "tok"'
    elif model.norm_after_pool:
      problem = "norm_after_pool is True", "leave it out"
    elif model.representation:
      problem = "representation is True", "leave it out"
    if problem:
      what, instead = problem
      raise ValueError(
        f"config.model.{what}, and the task mae trains what comes before the "
        f"pool alone: {instead}"
      )
    return model.clone(num_classes=0), self

  def check_run(self, mesh: MeshSpec, patch_sizes, *, packed: bool) -> None:
    """As `task.Task`: refuses what hides no patch well."""
    if mesh.seq > 1:
      raise ValueError(
        f"mesh.seq is {mesh.seq}, but the task mae takes visible patches out "
        "of whole rows, which devices then cannot share: give mesh.seq=1"
      )
    if self.target == mae_target.PATCH and (1, 1) in patch_sizes:
      raise ValueError(
        'task.target is "patch", each patch normalised by its own pixels, and '
        'patches of 1x1 have one each: give task.target="image"'
      )
    largest = self.decoder.position.largest_grid
    if packed and largest is not None:
      raise ValueError(
        "task.decoder.position has places for "
        "{}x{} patches, and packed images may be of any grid: take "
        "sincos2d".format(*largest)
      )
    refuse_strided(mesh)

  def check_grid(self, image_hw, patch_hw) -> None:
    """As `task.Task`: refuses images of too few patches, or too many for the
    decoder."""
    grid_hw = grid_shape(image_hw, patch_hw)
    patches = math.prod(grid_hw)
    if masking.num_visible(patches, self.mask_ratio) == patches:
      raise ValueError(
        f"{patches} patch of {patch_hw[0]}x{patch_hw[1]} in an image of "
        f"{image_hw[0]}x{image_hw[1]} px, of which mask_ratio "
        f"{self.mask_ratio:g} hides none: take smaller patches or larger images"
      )
    try:
      position_lib.check_grid(self.decoder.position, grid_hw)
    except ValueError as e:
      raise ValueError(f"task.decoder.position: {e}") from e

  def init(self, model: ViT, key: jax.Array, inputs, patch_hw):
    """As `Task`. The encoder begins as `Supervised` would begin it."""

    def init(inputs):
      tokens = to_tokens(inputs, patch_hw)
      shape = tokens.patches.shape[:2]
      masked = masking.hide(tokens, jnp.zeros(shape), self.mask_ratio)
      own = model.init(key, tokens)["params"]
      encoded = jnp.zeros((*masked.visible.patches.shape[:2], model.size.width))
      decoder = self.decoder.build(model).init(
        image_rng.key_for(DECODER, key), encoded, tokens, masked
      )
      return {**own, DECODER: decoder["params"]}

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
    """Loss and relative loss, as `task.Task`."""
    tokens = to_tokens(batch.inputs, patch_hw)
    masked = self.hide(tokens, batch.index, dropout_key)
    target = mae_target.of(tokens, self.target)
    answer = self.answer(model, params, tokens, masked, dropout_key)
    hidden = mae_target.by_image(masked.hidden.astype(jnp.float32), tokens)

    def of_images(error):
      total = mae_target.by_image(error, tokens, only=masked.hidden)
      return total / jnp.maximum(hidden, 1)

    loss = of_images(target.error(answer))
    weights = jnp.where(hidden > 0, batch.weights, 0)
    batch = dataclasses.replace(batch, inputs=tokens, weights=weights)
    loss_of_mean = Metric.of(of_images(target.error(target.centre)), weights)
    mean = Metric.of(loss, weights)
    return {
      "loss": mean,
      "relative_loss": Metric(mean.total, loss_of_mean.total),
    } | loss_by_patch_size(loss, batch)

  def hide(
    self, tokens: Tokens, index: jax.Array, dropout_key: jax.Array | None
  ) -> masking.Masked:
    """The mask of each image: of this step, or without a key always the same.

    Args:
      index: as in `Batch`.
    """
    keys = image_rng.image_keys(image_rng.key_for("mask", dropout_key), index)
    numbers = image_rng.of_tokens(keys, tokens)
    return masking.hide(tokens, numbers, self.mask_ratio)

  def answer(
    self, model: ViT, params, tokens, masked, dropout_key=None
  ) -> jax.Array:
    """What the model says of every patch, `[b, l, n]`, as the target's values.

    Args:
      params: as `init` makes them.
      tokens: of which `masked` hides some; of their patches only those that
        are visible are read.
    """
    if tokens.whole_grid is not None:
      position = OfWholeGrid(model.position, tokens.whole_grid)
      model = model.clone(position=position)
    train = dropout_key is not None
    own = {name: x for name, x in params.items() if name != DECODER}
    encoded = model.apply(
      {"params": own},
      masked.visible,
      train=train,
      rngs={"dropout": dropout_key} if train else None,
    ).encoded
    return self.decoder.build(model).apply(
      {"params": params[DECODER]}, encoded, tokens, masked
    )

  def draw(
    self, model: ViT, params, batch: Batch, *, patch_hw: tuple[int, int]
  ) -> jax.Array:
    """As `task.Draws`: the first images of the batch, the same with grey where
    patches are hidden, and with the answer there.

    The answer is brought back to pixels by the target's own mean and
    deviation, which of "patch" the model does not know: colours and contrast
    of hidden patches are right whatever it says.
    """
    images, index = batch.inputs[:SHOWN], batch.index[:SHOWN]
    tokens = to_tokens(images, patch_hw)
    masked = self.hide(tokens, index, None)
    target = mae_target.of(tokens, self.target)
    answer = self.answer(model, params, tokens, masked)
    answer = answer * target.std + target.mean
    whole = target.values * target.std + target.mean
    hidden = masked.hidden[..., None]
    columns = [
      whole,
      jnp.where(hidden, 0.0, whole),
      jnp.where(hidden, answer, whole),
    ]
    image_hw = images.shape[1:3]
    columns = [unpatchify(x, image_hw, patch_hw) for x in columns]
    pixels = (jnp.stack(columns, axis=1) + 1) * 127.5
    return jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)

  def multiply_adds(self, model: ViT, image_hw, patch_hw):
    """As `Task`: the encoder of visible patches, and the decoder of all."""
    patches = cost.tokens(image_hw, patch_hw)
    return self.packed_multiply_adds(model, patches, 1, (patch_hw,))

  def packed_multiply_adds(self, model: ViT, patches, num_images, patch_sizes):
    """As `Task`."""
    visible = masking.num_visible(patches, self.mask_ratio)
    if num_images > 1:
      visible = masking.row_length(patches, num_images, self.mask_ratio)
    size = self.decoder.size
    pixels = pixel_head.multiply_adds(
      size.width, model.kernel_hw, model.channels, patch_sizes
    )
    return (
      cost.packed_multiply_adds(model, visible, num_images, patch_sizes)
      + visible * model.size.width * size.width
      + cost.blocks(size, patches)
      + patches * pixels
    )
