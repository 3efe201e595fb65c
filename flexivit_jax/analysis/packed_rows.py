"""Packed rows, drawn: which images share a row, and what is left empty."""

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from flexivit_jax.analysis import images
from flexivit_jax.analysis.analysis import (
  Analysis,
  Findings,
  Given,
  Option,
  whole,
)
from flexivit_jax.core.tokens import Tokens
from flexivit_jax.evaluation.report.figures.style import COLOURS


def draw(tokens: Tokens, *, title: str, rows: int = 6) -> Figure:
  """The first rows, token by token; a colour and a picture for each image.

  A picture is as wide as its image's share of the row, or less. Patches that
  were dropped have the image's colour in it.
  """
  length = np.asarray(tokens.segments).shape[1]
  found = list(zip(images.places(tokens), pictures(tokens), strict=True))
  count = min(rows, 1 + max(place.row for place, _ in found))
  # In units of a token: a band of colour, and pictures below it.
  band, height = length / 60, length / 11
  pitch = 1.25 * (band + height)
  figure = Figure(figsize=(8, 0.4 + 8 * count * pitch / length))
  axes = figure.add_axes((0.04, 0.02, 0.92, 1 - 0.4 / figure.get_figheight()))
  for row in range(count):
    top = row * pitch
    axes.add_patch(
      Rectangle(
        (0, top), length, band, facecolor="white", edgecolor="grey", hatch="///"
      )
    )
  for place, pixels in found:
    if place.row >= count:
      continue
    first, n = int(place.own.min()), len(place.own)
    top = place.row * pitch
    colour = COLOURS[place.slot % len(COLOURS)]
    axes.add_patch(
      Rectangle((first, top), n, band, facecolor=colour, edgecolor="white")
    )
    h, w = pixels.shape[:2]
    scale = min(0.92 * n / w, 0.92 * height / h)
    left, right = (first + n / 2 + s * scale * w / 2 for s in (-1, 1))
    upper = top + band + 0.06 * height
    lower = upper + scale * h
    axes.imshow(
      pixels, extent=(left, right, lower, upper), interpolation="nearest"
    )
    axes.add_patch(
      Rectangle(
        (left, upper),
        right - left,
        lower - upper,
        fill=False,
        edgecolor=colour,
        linewidth=1.5,
      )
    )
  axes.set_xlim(0, length)
  axes.set_ylim(count * pitch - 0.2 * height, -0.3 * band)
  axes.set_aspect("equal")
  axes.axis("off")
  axes.set_title(title, fontsize="medium")
  return figure


def pictures(tokens: Tokens) -> list[np.ndarray]:
  """The images in their rows, u8 `[h, w, 3]`, as in `images.places`; dropped
  patches have the colour of their slot."""
  there = np.ones(tokens.patches.shape[:2], np.int32)
  found = []
  for place, pixels, kept, (ph, pw) in zip(
    images.places(tokens),
    images.to_pixels(tokens),
    images.to_images(tokens, there),
    images.patch_sizes_of(tokens),
    strict=True,
  ):
    colour = np.array(to_rgb(COLOURS[place.slot % len(COLOURS)]))
    whole = kept.repeat(ph, axis=0).repeat(pw, axis=1)[..., None] > 0
    colour = (255 * colour).round().astype(np.uint8)
    found.append(np.where(whole, pixels, colour))
  return found


def row_lengths(tokens: Tokens) -> list[list[int]]:
  """Patches of each image, for each row."""
  found = [[] for _ in range(np.asarray(tokens.segments).shape[0])]
  for place in images.places(tokens):
    found[place.row].append(len(place.own))
  return found


def run(tokens: Tokens, options) -> Findings:
  found = row_lengths(tokens)
  length = tokens.segments.shape[1]
  fill = sum(map(sum, found)) / tokens.segments.size
  title = f"rows of {length} patches, a colour for each image; hatched: padding"
  return Findings(
    {"packing": draw(tokens, title=title, rows=options["rows"])},
    {
      "segments": np.asarray(tokens.segments),
      "images_per_row": np.asarray([len(x) for x in found]),
    },
    (
      f"{len(found)} rows of {length} patches: {100 * fill:.1f} % full, "
      f"{np.mean([len(x) for x in found]):.1f} images in a row",
    ),
  )


ANALYSIS = Analysis(
  "packing",
  "rows of a config's training data, as a step gets them",
  Given.ROWS,
  (Option("rows", "to draw", "6", whole(1)),),
  run,
)
