"""What a forward pass costs, from the model's sizes alone."""

import math
from collections.abc import Sequence

from flexivit_jax.core.tokens import grid_shape
from flexivit_jax.models.vit import ViT
from flexivit_jax.nn import pooling
from flexivit_jax.nn.adaln import AdaLNZero
from flexivit_jax.nn.encoder import Size
from flexivit_jax.nn.positions.relative import Relative


def tokens(image_hw: tuple[int, int], patch_hw: tuple[int, int]) -> int:
  """Patches per image.

  Raises:
    ValueError: the image is not a whole number of patches.
  """
  return math.prod(grid_shape(image_hw, patch_hw))


def row_length(
  model: ViT, image_hw: tuple[int, int], patch_hw: tuple[int, int]
) -> int:
  """Tokens per image that the encoder sees: patches, class token, registers.

  Raises:
    ValueError: as `tokens`.
  """
  return packed_row_length(model, tokens(image_hw, patch_hw), 1)


def packed_row_length(model: ViT, patches: int, num_images: int) -> int:
  """Tokens of a packed row that the encoder sees: patches, and a class token
  and registers for each image slot."""
  return patches + num_images * (model.pool.class_token + model.registers)


def multiply_adds(
  model: ViT, image_hw: tuple[int, int], patch_hw: tuple[int, int]
) -> int:
  """Multiply-adds of one image's forward pass.

  This is the number that papers on ViTs call FLOPs (17.6 G for ViT-B/16 at
  224 px); a machine's peak counts each as two. A training step costs about
  three times as much: backward, each product becomes two.

  Counted are the products: convolutions of the stem, patch embedding,
  projections, attention, relative positions, MLPs, pooling, head. Left out are

  - norms, activations, softmax and biases: by XLA's count 0.3 % of ViT-B,
    0.7 % of ViT-S, 4 % at width 64;
  - rotary positions, which turn queries and keys, and Fourier's linear map of
    two coordinates, d for each token;
  - what is done once per batch, whatever its size: standardising the filters
    of a stem, resizing the patch embedding and the positions. FlexiViT-S at
    48 px of 240, where the tokens are few and the patches large, spends on
    them 23 % of one image, so 0.4 % of a batch of 64.

  Raises:
    ValueError: the image is not a whole number of patches, or a patch of the
      stem's cells, or num_classes is not set.
  """
  patches = tokens(image_hw, patch_hw)
  inputs = patches * math.prod(model.stem.cells(patch_hw))
  inputs *= model.stem.channels(model.channels)
  stem = model.stem.multiply_adds(image_hw, model.channels)
  embedding = inputs * model.size.width
  return stem + embedding + _after_embedding(model, patches, 1)


def packed_multiply_adds(
  model: ViT,
  patches: int,
  num_images: int,
  patch_sizes: Sequence[tuple[int, int]],
) -> int:
  """Multiply-adds of a packed row's forward pass, padding included; or of one
  image in it, its own patches alone.

  Args:
    patches: places for patches in the row; or of the image, a number or a float
      array of any shape.
    num_images: image slots of the row; or 1.
    patch_sizes: in pixels; several are resized to the kernel's size first.

  Raises:
    ValueError: num_classes is not set.
  """
  embedding = patches * _packed_embedding(model, patch_sizes)
  return embedding + _after_embedding(model, patches, num_images)


def blocks(size: Size, row: int) -> int:
  """Multiply-adds of plain blocks on a row of so many tokens."""
  d = size.width
  return size.depth * (_attention(d, row, row) + _mlp(size, row))


def _packed_embedding(model, patch_sizes) -> int:
  """Of one patch."""
  h, w = (max(sides) for sides in zip(*patch_sizes))
  pixels, resize = h * w, 0
  if len(patch_sizes) > 1:
    kh, kw = model.kernel_hw
    pixels, resize = kh * kw, kh * h * w + kh * w * kw
  return model.channels * (pixels * model.size.width + resize)


def _after_embedding(model: ViT, patches: int, num_images: int) -> int:
  if model.num_classes is None:
    raise ValueError("num_classes is not set: give a number, 0 for no head")
  size, d = model.size, model.size.width
  row = packed_row_length(model, patches, num_images)
  block = _attention(d, row, row) + _mlp(size, row, model.gated_mlp)
  if isinstance(model.position, Relative):
    block += row * math.prod(2 * n - 1 for n in model.position.size) * d
  pool = 0
  if isinstance(model.pool, pooling.Map):
    pool = _attention(d, num_images, patches) + _mlp(size, num_images)
  per_image = d * model.num_classes + (d * d if model.representation else 0)
  if isinstance(model.conditioning, AdaLNZero):
    per_image += (6 * size.depth + 2) * d * d
  return size.depth * block + pool + num_images * per_image


def _attention(d: int, queries: int, keys: int) -> int:
  """Projections of queries, keys, values and output; logits, weighted sum."""
  projections = 2 * (queries + keys) * d * d
  return projections + 2 * queries * keys * d


def _mlp(size: Size, row: int, gated: bool = False) -> int:
  return (3 if gated else 2) * row * size.width * size.mlp_dim
