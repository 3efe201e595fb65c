"""What a forward pass costs, from the model's sizes alone."""

import math

from flexivit_jax.core.tokens import grid_shape
from flexivit_jax.nn import pooling
from flexivit_jax.nn.vit import Size, ViT


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
  extra = model.pool.class_token + model.registers
  return tokens(image_hw, patch_hw) + extra


def multiply_adds(
  model: ViT, image_hw: tuple[int, int], patch_hw: tuple[int, int]
) -> int:
  """Multiply-adds of one image's forward pass.

  This is the number that papers on ViTs call FLOPs (17.6 G for ViT-B/16 at
  224 px); a machine's peak counts each as two. A training step costs about
  three times as much: backward, each product becomes two.

  Counted are the products: patch embedding, projections, attention, MLPs,
  pooling, head. Left out are

  - norms, activations, softmax and biases: by XLA's count 0.3 % of ViT-B,
    0.7 % of ViT-S, 4 % at width 64;
  - what is done once per batch, whatever its size: resizing the patch
    embedding and the positions. FlexiViT-S at 48 px of 240, where the tokens
    are few and the patches large, spends on them 23 % of one image, so 0.4 %
    of a batch of 64.

  Raises:
    ValueError: the image is not a whole number of patches, or num_classes is
      not set.
  """
  if model.num_classes is None:
    raise ValueError("num_classes is not set: give a number, 0 for no head")
  size, d = model.size, model.size.width
  patches = tokens(image_hw, patch_hw)
  row = row_length(model, image_hw, patch_hw)
  embedding = patches * math.prod(patch_hw) * model.channels * d
  block = _attention(d, row, row) + _mlp(size, row, model.gated_mlp)
  pool = 0
  if isinstance(model.pool, pooling.Map):
    pool = _attention(d, 1, patches) + _mlp(size, 1)
  representation = d * d if model.representation else 0
  head = d * model.num_classes
  return embedding + size.depth * block + pool + representation + head


def _attention(d: int, queries: int, keys: int) -> int:
  """Projections of queries, keys, values and output; logits, weighted sum."""
  projections = 2 * (queries + keys) * d * d
  return projections + 2 * queries * keys * d


def _mlp(size: Size, row: int, gated: bool = False) -> int:
  return (3 if gated else 2) * row * size.width * size.mlp_dim
