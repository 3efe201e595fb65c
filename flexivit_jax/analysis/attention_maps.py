"""What one token attends to, over the image."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from flexivit_jax.analysis import layout
from flexivit_jax.analysis.activations import (
  Activations,
  block_weights,
  probe_weights,
)
from flexivit_jax.core.tokens import Tokens
from flexivit_jax.nn import pooling
from flexivit_jax.nn.vit import ViT


class Patch(NamedTuple):
  """A patch of an image, by its place in the grid, from 0."""

  row: int
  col: int


def attention_maps(
  model: ViT,
  found: Activations,
  tokens: Tokens,
  *,
  query: str | Patch,
  block: int = -1,
) -> list[np.ndarray]:
  """Attention of one query to the patches of its image, by head.

  Args:
    found: with attentions, segments and probe.
    query: "class" for the class token, "probe" for that of the MAP head, or a
      patch.
    block: from 0, or below 0 from the last; the probe is no block's.

  Returns:
    `[rows, cols, h]` for each image, as in `layout.places`. Sums to 1 less
    what class and register tokens get; NaN where a patch is missing.

  Raises:
    ValueError: an image has no such patch, or as `check_query`.
  """
  check_query(model, query)
  places = layout.places(tokens)
  if query == "probe":
    weights = probe_weights(found, tokens)
    queries = [place.slot for place in places]
  elif query == "class":
    weights = block_weights(found, block)
    group = model.pool.class_token + model.registers
    queries = [place.slot * group for place in places]
  else:
    weights = block_weights(found, block)
    front = weights.shape[2] - tokens.patches.shape[1]
    queries = [front + i for i in _indices(tokens, query)]
  b, l = tokens.patches.shape[:2]
  weights = np.asarray(weights)[..., -l:]
  # Each patch's share of its own image's query.
  own = np.zeros((b, l, weights.shape[1]), weights.dtype)
  for place, q in zip(places, queries, strict=True):
    own[place.row, place.own] = weights[place.row, :, q, place.own]
  return layout.to_images(tokens, own)


def check_query(model: ViT, query: str | Patch) -> None:
  """Refuses a token that a model does not have.

  Raises:
    ValueError: naming those that it has.
  """
  own = "probe" if isinstance(model.pool, pooling.Map) else None
  if model.pool.class_token:
    own = "class"
  if not isinstance(query, Patch) and query != own:
    has = f"{own!r}, or a patch" if own else "a patch"
    raise ValueError(
      f"query {query!r}: the model has no such token, give {has}"
    )


def check_patch(patch: Patch, grids: Iterable[tuple[int, int]]) -> None:
  """Refuses a patch that is beyond an image's grid.

  Raises:
    ValueError: naming the image's number and its rows and columns.
  """
  for i, (rows, cols) in enumerate(grids):
    if not (0 <= patch.row < rows and 0 <= patch.col < cols):
      raise ValueError(
        f"patch {patch.row},{patch.col}: image {i} has {rows}x{cols} patches, "
        f"give rows 0 to {rows - 1} and columns 0 to {cols - 1}"
      )


def _indices(tokens, patch: Patch) -> list[int]:
  """Where in its row each image has a patch."""
  b, l = tokens.patches.shape[:2]
  numbers = layout.to_images(tokens, np.broadcast_to(np.arange(l) + 1, (b, l)))
  check_patch(patch, (x.shape for x in numbers))
  for i, image in enumerate(numbers):
    if not image[patch]:
      raise ValueError(
        f"patch {patch.row},{patch.col} of image {i} was left out"
      )
  return [int(image[patch]) - 1 for image in numbers]
