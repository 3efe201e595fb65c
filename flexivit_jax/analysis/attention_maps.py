"""Attention of one token over the image, by head."""

import functools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colors, patches
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from flexivit_jax.analysis import images
from flexivit_jax.analysis.activations import (
  Activations,
  block_weights,
  check_block,
  probe_weights,
)
from flexivit_jax.analysis.analysis import (
  Analysis,
  Findings,
  Given,
  Option,
  refusing,
  whole,
)
from flexivit_jax.analysis.figures import SEQUENTIAL, bare, over
from flexivit_jax.core.sizes import size_name
from flexivit_jax.core.tokens import Tokens
from flexivit_jax.evaluation.report.figures.style import COLOURS
from flexivit_jax.models.vit import ViT
from flexivit_jax.nn import pooling


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
    `[rows, cols, h]` for each image, as in `images.places`. Sums to 1 less
    what class and register tokens get; NaN where a patch is missing.

  Raises:
    ValueError: an image has no such patch, or as `check_query`.
  """
  check_query(model, query)
  places = images.places(tokens)
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
  return images.to_images(tokens, own)


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
  """Index in its row of each image's patch."""
  b, l = tokens.patches.shape[:2]
  order = np.broadcast_to(np.arange(l) + 1, (b, l))
  numbers = images.to_images(tokens, order)
  check_patch(patch, (x.shape for x in numbers))
  for i, image in enumerate(numbers):
    if not image[patch]:
      raise ValueError(
        f"patch {patch.row},{patch.col} of image {i} was left out"
      )
  return [int(image[patch]) - 1 for image in numbers]


def draw(
  pixels: Sequence[np.ndarray],
  maps: Sequence[np.ndarray],
  title: str,
  query: tuple[int, int] | None = None,
) -> Figure:
  """A row for each image: the image, then the map of each head.

  Args:
    pixels: u8 `[h, w, 3]`.
    maps: `[rows, cols, h]` each; every map is scaled by its own maximum.
    query: (row, col) of the patch whose attention it is, to be outlined.
  """
  heads = maps[0].shape[-1]
  figure = Figure(
    figsize=(1.5 + 1.1 * (heads + 1), 0.9 + 1.1 * len(pixels)),
    layout="constrained",
  )
  grid = figure.subplots(len(pixels), heads + 1, squeeze=False)
  norm = colors.Normalize(0, 1)
  for row, image, values in zip(grid, pixels, maps, strict=True):
    row[0].imshow(image)
    grey = image.mean(axis=-1)
    for axes, head in zip(row[1:], np.moveaxis(values, -1, 0), strict=True):
      axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
      largest = np.nanmax(head)
      # The image shines through.
      shown = head / (largest or 1)
      over(axes, shown, image.shape[:2], cmap=SEQUENTIAL, norm=norm, alpha=0.75)
    for axes in row:
      bare(axes)
      if query is not None:
        _outline(axes, query, image.shape[:2], values.shape[:2])
  grid[0, 0].set_title("image", fontsize=8)
  for head, axes in enumerate(grid[0, 1:]):
    axes.set_title(f"head {head}", fontsize=8)
  figure.suptitle(title, fontsize="medium")
  figure.colorbar(
    ScalarMappable(norm, SEQUENTIAL),
    ax=grid,
    panchor=False,
    shrink=0.8,
    aspect=30,
    label="attention / largest of the map",
  )
  return figure


def _outline(axes, query, image_hw, grid_hw):
  h, w = (side / n for side, n in zip(image_hw, grid_hw, strict=True))
  corner = (query[1] * w - 0.5, query[0] * h - 0.5)
  axes.add_patch(
    patches.Rectangle(
      corner, w, h, fill=False, edgecolor=COLOURS[1], linewidth=1.5
    )
  )


def run(subject: images.Subject, options) -> Findings:
  query, block = options["query"], options["block"]
  model, (size,) = subject.model, subject.sizes
  grids = subject.grids(size)
  if query is None:
    query = usual_query(model, grids)
  with refusing("--query"):
    check_query(model, query)
    if isinstance(query, Patch):
      check_patch(query, grids)
  with refusing("--block"):
    check_block(model, block)
  compute = functools.partial(attention_maps, model, query=query, block=block)
  maps = subject.of_images(compute, size, ("attentions", "probe", "segments"))
  patch = query if isinstance(query, Patch) else None
  of = f"patch {patch.row},{patch.col}" if patch else f"the {query} token"
  where = f"block {block % model.size.depth}"
  if query == "probe":
    of, where = "the probe", "the MAP head"
  title = f"Attention of {of} in {where}, patches of {size_name(size)} px"
  return Findings(
    {"attention_maps": draw(subject.pixels(size), maps, title, patch)},
    {f"image_{number}": x for number, x in zip(subject.numbers, maps)},
    (str(subject), title),
  )


def parse_query(text: str) -> str | Patch:
  """Parse "class", "probe", or "3,4" as a patch."""
  if text in ("class", "probe"):
    return text
  if not re.fullmatch(r"\d{1,9},\d{1,9}", text):
    raise ValueError("give class, probe, or row and column of a patch, 3,4 say")
  return Patch(*map(int, text.split(",")))


def usual_query(model, grids) -> str | Patch:
  """The token that the head reads by; where it averages, a patch near the
  middle that all images have."""
  match model.pool:
    case pooling.ClassToken():
      return "class"
    case pooling.Map():
      return "probe"
  rows, cols = (min(sides) for sides in zip(*grids))
  return Patch(rows // 2, cols // 2)


ANALYSIS = Analysis(
  "attention-maps",
  "attention of the class token, the probe or a patch, over the image",
  Given.IMAGES,
  (
    images.count(8, most=images.MOST_DRAWN),
    images.PATCH_SIZE,
    Option(
      "query",
      "class, probe (of the MAP head), or ROW,COL of a patch, from 0; default: "
      "what the head reads by, else a patch near the middle",
      parse=parse_query,
    ),
    Option(
      "block",
      "from 0; -1 is the last; not for the probe",
      "-1",
      whole(),
    ),
  ),
  run,
)
