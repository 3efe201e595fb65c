"""Rows of packed images: Grain's first-fit packer behind one module.

Images go in as dicts of arrays, `Batch` of `Tokens` comes out. The packer's
rows are those of `image_list.first_fit`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import grain
import numpy as np
from grain.experimental import FirstFitPackIterDataset

from flexivit_jax.core import token_drop
from flexivit_jax.core.tokens import Batch, Tokens

# Slots of a row: each has logits, whether it holds an image or not.
MOST_IMAGES = 4096


@dataclasses.dataclass(frozen=True)
class Packing:
  """Rules for images that share rows (Patch n' Pack, arXiv:2307.06304).

  Attributes:
    row_length: patches of a row. Class and register tokens come on top, one
      group for each slot: gap and map pooling need none.
    max_images: image slots of a row, E_max in the paper. 1.5 times the mean
      costs next to no padding.
    open_rows: rows that are filled at the same time. More of them leave less
      padding, and take memory and time at a resume.
    overflow: what happens to an image that meets a row of max_images: "next"
      opens or goes to another row; "drop" leaves it out, as in the paper.
    too_long: "resize" scales an image that has more than row_length patches
      down until it fits, "error" refuses it by its name.
    drop: share of an image's patches that training leaves out.
    loss: "mean": a step's loss is the mean over its images, so every step
      weighs the same, however many images it has; "sum": it is their sum
      over the number expected in a step, so every image weighs the same.
  """

  row_length: int
  max_images: int
  open_rows: int = 64
  overflow: str = "next"
  too_long: str = "resize"
  drop: token_drop.TokenDrop = token_drop.NoDrop()
  loss: str = "mean"

  def __post_init__(self):
    for name, low, high in (
      ("row_length", 1, 2**20),
      ("max_images", 1, MOST_IMAGES),
      ("open_rows", 1, 65_536),
    ):
      value = getattr(self, name)
      if not low <= value <= high:
        raise ValueError(f"{name} is {value}: give {low} to {high}")
    if self.max_images > self.row_length:
      raise ValueError(
        f"max_images is {self.max_images}, but a row of {self.row_length} "
        "patches holds no more images than patches: give at most "
        f"{self.row_length}"
      )
    for name, valid in (
      ("overflow", ("next", "drop")),
      ("too_long", ("resize", "error")),
      ("loss", ("mean", "sum")),
    ):
      if getattr(self, name) not in valid:
        raise ValueError(
          f"{name} is {getattr(self, name)!r}: give {valid[0]!r} or "
          f"{valid[1]!r}"
        )


def rows_for(budget: int) -> Packing:
  """Rows for images of at most so many patches, to evaluate them."""
  length = max(budget, 256)
  slots = min(-(-2 * length // budget), length)
  return Packing(length, slots, open_rows=16)


class Images(grain.DatasetIterator):
  """Input of the packer: images by their place, resuming at any place.

  Args:
    next_image: returns the next image as a dict of `patches` u8 `[n, p]`,
      `cells` i32 `[n, 5]` and `image` i32 `[1, 2]` (label, index), or
      `[1, k + 1]` (labels, index).
    seek: makes another place the next one.
  """

  def __init__(
    self,
    next_image: Callable[[], Mapping[str, np.ndarray]],
    seek: Callable[[int], None],
  ):
    super().__init__()
    self._next_image = next_image
    self._seek = seek
    self._place = 0

  def __next__(self):
    image = self._next_image()
    self._place += 1
    return image

  def get_state(self):
    return {"place": self._place}

  def set_state(self, state):
    self._place = state["place"]
    self._seek(self._place)


class _Dataset(grain.IterDataset):
  """An iterator that was already made, as Grain wants to be given it."""

  def __init__(self, images: Images):
    super().__init__()
    self._images = images

  def __iter__(self):
    return self._images


def rows(
  images: Images, packing: Packing, shuffle_seed: int | None
) -> grain.DatasetIterator:
  """Rows, one dict each, to be stacked by `to_batch`.

  Its `get_state` is small: the place of the first image of the rows that were
  open together, and how many of those rows were taken; they are filled again
  when it resumes.

  Args:
    shuffle_seed: of the order of rows that were open together, since the first
      of them are the fullest; None: as they were opened.
  """
  # What overflows is left out after packing, as if it had never come.
  slots = packing.max_images if packing.overflow == "next" else None
  lengths = {
    "patches": packing.row_length,
    "cells": packing.row_length,
    "image": slots or packing.row_length,
  }
  dataset = FirstFitPackIterDataset(
    _Dataset(images),
    length_struct=lengths,
    num_packing_bins=packing.open_rows,
    seed=shuffle_seed or 0,
    shuffle_bins=shuffle_seed is not None,
    max_sequences_per_bin=slots,
  )
  return iter(dataset)


def to_batch(
  rows: Sequence[Mapping[str, np.ndarray]],
  patch_sizes: tuple[tuple[int, int], ...],
  max_images: int,
) -> Batch:
  """Rows as a batch; images beyond max_images become padding."""
  segments = np.stack([row["patches_segment_ids"] for row in rows])
  cells = np.stack([row["cells"] for row in rows])
  patches = np.stack([row["patches"] for row in rows])
  if (beyond := segments > max_images).any():
    segments = np.where(beyond, 0, segments)
    cells = np.where(beyond[..., None], 0, cells)
    patches = np.where(beyond[..., None], 0, patches)
  images = np.stack([row["image"][:max_images] for row in rows])
  filled = np.stack([row["image_segment_ids"][:max_images] for row in rows]) > 0
  if images.shape[-1] == 2:
    labels = np.where(filled, images[..., 0], 0)
  else:
    labels = np.where(filled[..., None], images[..., :-1], -1)
  return Batch(
    inputs=Tokens(
      patches=patches,
      coords=cells[..., :2],
      grid_hw=np.maximum(cells[..., 2:4], 1),
      segments=segments,
      size_index=cells[..., 4] if len(patch_sizes) > 1 else None,
      patch_sizes=patch_sizes,
      num_images=max_images,
    ),
    labels=labels,
    weights=filled.astype(np.float32),
    index=np.where(filled, images[..., -1], -1),
  )


def empty_row(
  packing: Packing, patch_bytes: int, labels: int = 1
) -> dict[str, np.ndarray]:
  """A row without an image, as `rows` makes them.

  Args:
    labels: of an image.
  """
  length, slots = packing.row_length, packing.max_images
  return {
    "patches": np.zeros((length, patch_bytes), np.uint8),
    "patches_segment_ids": np.zeros(length, np.int32),
    "cells": np.zeros((length, 5), np.int32),
    "image": np.zeros((slots, labels + 1), np.int32),
    "image_segment_ids": np.zeros(slots, np.int32),
  }


def overflowed(row: Mapping[str, np.ndarray], max_images: int) -> int:
  """Images of a row that `to_batch` leaves out."""
  return max(0, int(row["image_segment_ids"].max()) - max_images)


def split_group(group: Mapping[str, np.ndarray]) -> Iterator[dict]:
  """The images of a group, which came from a worker in one piece."""
  ends = np.cumsum(group["lengths"])
  for i, (end, length) in enumerate(zip(ends, group["lengths"])):
    tokens = slice(end - length, end)
    yield {
      "patches": group["patches"][tokens],
      "cells": group["cells"][tokens],
      "image": group["images"][i : i + 1],
    }
