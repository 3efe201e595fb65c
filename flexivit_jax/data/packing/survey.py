"""Survey of the images before training: their lengths, and rows that suit."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from flexivit_jax.data.loading.order import Draws
from flexivit_jax.data.packing import image_list
from flexivit_jax.data.packing.cut_images import CutImages
from flexivit_jax.data.packing.cutter import Plan
from flexivit_jax.data.packing.rows import MOST_IMAGES, Packing
from flexivit_jax.data.pixels.decode import BadImageError

# Enough to know a mean within some percent; headers of so many files are read
# in a second. Where transforms need the pixels, fewer.
IMAGES, DECODED_IMAGES = 2048, 256

# Borders of the histogram of width / height.
ASPECTS = (1 / 3, 1 / 2, 2 / 3, 0.9, 1.1, 3 / 2, 2, 3)

ROW_LENGTHS = tuple(128 * 2**i for i in range(10))


@dataclasses.dataclass(frozen=True)
class Fill:
  """Statistics of rows filled with images.

  Attributes:
    row_length, max_images: of the rows.
    fill: share of a row's places that hold a patch.
    images_per_row: mean.
    taken_per_row: the same with those that `overflow="drop"` leaves out.
    full_rows: share of the rows that have max_images.
  """

  row_length: int
  max_images: int
  fill: float
  images_per_row: float
  taken_per_row: float
  full_rows: float


@dataclasses.dataclass(frozen=True)
class Scan:
  """Statistics of the images that were scanned.

  Attributes:
    aspects: i64 `[n]`, images between the borders `ASPECTS`.
    tokens: i64 `[images]`, patches that training keeps of each.
    scaled_down: images that would have more patches than a row takes, or than
      the model has positions for.
    now: with the rows of the config.
    better: with the rows that suit; None: those of the config do.
  """

  aspects: np.ndarray
  tokens: np.ndarray
  scaled_down: int
  now: Fill
  better: Fill | None


def scan(images: CutImages, rows: Packing) -> Scan:
  """Plans the first images of training, as training will.

  A scheduled token drop is seen as it is at the start.

  Raises:
    BadImageError: one cannot be decoded, and bad images are not skipped.
    TooLongError: one does not fit into a row, and long ones are refused.
  """
  ratios, tokens, scaled_down = [], [], 0
  for (h, w), plan in _plans(images):
    ratios.append(w / h)
    tokens.append(max(1, round(plan.tokens * (1 - plan.drop))))
    scaled_down += plan.scaled_down
  if not tokens:
    raise ValueError(
      "none of the first images can be decoded: mend the data, or its path"
    )
  tokens = np.array(tokens)
  borders = (0, *ASPECTS, math.inf)
  return Scan(
    np.histogram(ratios, borders)[0],
    tokens,
    scaled_down,
    _fill(tokens, rows),
    _better(tokens, rows),
  )


def _plans(images) -> Iterator[tuple[tuple[int, int], Plan]]:
  """Size after the transforms, and plan, of each image."""
  order, cutter = images.order, images.cutter
  source, transforms = order.example.source, order.example.transforms
  draws = Draws(order.seed)
  count = min(len(source), DECODED_IMAGES if transforms else IMAGES)
  for place in range(count):
    epoch, index = order.index(place)
    rng = draws(epoch, index)
    try:
      if transforms:
        hw = order.example(index, rng)[0].shape[:2]
      else:
        hw = source.size(index)
    except BadImageError:
      if not order.skip:
        raise
      continue
    yield hw, cutter.plan(hw, rng, place, source.name(index))


def _better(tokens, rows) -> Fill | None:
  """The shortest rows that are all but full, if that is a gain of 1 %."""
  now = _fill(tokens, rows)
  for length in ROW_LENGTHS:
    if length < tokens.max():
      continue
    slots = math.ceil(1.5 * length / tokens.mean())
    slots = min(max(slots, 1), length, MOST_IMAGES)
    fill = _fill(
      tokens, dataclasses.replace(rows, row_length=length, max_images=slots)
    )
    if fill.fill >= 0.97:
      return fill if fill.fill > now.fill + 0.01 else None
  return None


def _fill(tokens, rows: Packing) -> Fill:
  # Several times all open rows: those that are open last are not full.
  wanted = 4 * rows.open_rows * rows.row_length / tokens.mean()
  lengths = np.resize(tokens, max(len(tokens), min(int(wanted), 100_000)))
  lengths = np.minimum(lengths, rows.row_length).tolist()
  slots = rows.max_images if rows.overflow == "next" else None
  packed = image_list.first_fit(
    lengths, rows.row_length, max_images=slots, open_rows=rows.open_rows
  )
  closed = (len(packed) - 1) // rows.open_rows * rows.open_rows
  packed = packed[:closed] or packed
  taken = sum(map(len, packed)) / len(packed)
  # What overflow="drop" leaves out.
  packed = [row[: rows.max_images] for row in packed]
  filled = sum(lengths[i] for row in packed for i in row)
  return Fill(
    rows.row_length,
    rows.max_images,
    filled / (len(packed) * rows.row_length),
    sum(map(len, packed)) / len(packed),
    taken,
    sum(len(row) == rows.max_images for row in packed) / len(packed),
  )


def describe(found: Scan, rows_per_step: int) -> Iterator[str]:
  """Lines to print at the start of a run."""
  total = len(found.tokens)
  yield f"scan of {total} images, before the first step"
  names = ["1:3", "1:2", "2:3", "0.9", "1.1", "3:2", "2:1", "3:1"]
  lows, highs = ["", *names], [*names, ""]
  for low, high, count in zip(lows, highs, found.aspects.tolist()):
    bar = "#" * round(40 * count / total)
    yield f"  width:height {low:>3} - {high:<3} {count:6d} {bar}".rstrip()
  low, middle, high = np.percentile(found.tokens, (10, 50, 90))
  yield (
    f"  tokens per image: {found.tokens.min()} to {found.tokens.max()}, mean "
    f"{found.tokens.mean():.1f}; 10 % below {low:.0f}, half below "
    f"{middle:.0f}, 90 % below {high:.0f}"
  )
  now = found.now
  if found.scaled_down:
    yield (
      f"  {100 * found.scaled_down / total:.3g} % of them had more patches "
      f"than a row takes ({now.row_length}) or than the model has positions "
      "for: they are scaled down"
    )
  yield (
    f"  rows of {now.row_length} patches with at most {now.max_images} images: "
    f"{100 * now.fill:.1f} % filled, {now.images_per_row:.2f} images in a row, "
    f"{now.images_per_row * rows_per_step:.1f} in a step"
  )
  if now.full_rows > 0.05 and now.fill < 0.98:
    yield (
      f"  {100 * now.full_rows:.0f} % of the rows have max_images="
      f"{now.max_images}: more slots would fill them better"
    )
  if found.better is not None:
    better = found.better
    yield (
      f"  packing.row_length={better.row_length} with packing.max_images="
      f"{better.max_images} would be {100 * better.fill:.1f} % filled"
    )


def to_json(found: Scan) -> dict:
  """For the record of a run."""
  return {
    "aspect_borders": list(ASPECTS),
    "aspects": found.aspects.tolist(),
    "tokens_min": int(found.tokens.min()),
    "tokens_mean": float(found.tokens.mean()),
    "tokens_max": int(found.tokens.max()),
    "scaled_down": found.scaled_down,
    "rows": dataclasses.asdict(found.now),
    "better": found.better and dataclasses.asdict(found.better),
  }
