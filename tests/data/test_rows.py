"""Grain's packer against first_fit, and its batches."""

import dataclasses

import numpy as np
import pytest

from flexivit_jax.data.packing import rows as rows_lib
from flexivit_jax.data.packing.image_list import first_fit
from flexivit_jax.data.packing.rows import Packing

PIXELS = 6  # numbers of a patch


def image(i, length):
  """Image i, whose every number tells of it and of its place."""
  cells = [(at, i, length, i + 1, i % 2) for at in range(length)]
  return {
    "patches": np.full((length, PIXELS), i % 255 + 1, np.uint8),
    "cells": np.array(cells, np.int32),
    "image": np.array([[i % 7, 100 + i]], np.int32),
  }


class Feed:
  """Images of these lengths, from any place."""

  def __init__(self, lengths):
    self.lengths = lengths
    self.place = 0

  def next_image(self):
    if self.place == len(self.lengths):
      raise StopIteration
    self.place += 1
    return image(self.place - 1, self.lengths[self.place - 1])

  def seek(self, place):
    self.place = place

  def rows(self, packing, shuffle_seed=None):
    images = rows_lib.Images(self.next_image, self.seek)
    return rows_lib.rows(images, packing, shuffle_seed)


def random_case(seed):
  """Lengths and a packing; max_images binds in half of them."""
  rng = np.random.default_rng(seed)
  row_length = int(rng.integers(4, 30))
  most = row_length if seed % 2 else max(1, row_length // 4)
  lengths = rng.integers(1, most + 1, rng.integers(1, 40)).tolist()
  packing = Packing(
    row_length,
    max_images=int(rng.integers(1, min(row_length, 6) + 1)),
    open_rows=int(rng.integers(1, 6)),
  )
  return lengths, packing


SIZES = ((1, 2), (2, 1))


@pytest.mark.parametrize("overflow", ["next", "drop"])
def test_rows_are_those_of_first_fit(overflow):
  binds = several = lost = 0
  for seed in range(60):
    lengths, packing = random_case(seed)
    packing = dataclasses.replace(packing, overflow=overflow)
    most = packing.max_images
    found = list(Feed(lengths).rows(packing))
    free, bound = (
      first_fit(
        lengths,
        packing.row_length,
        max_images=limit,
        open_rows=packing.open_rows,
      )
      for limit in (None, most)
    )
    expected = bound if overflow == "next" else free
    check(rows_lib.to_batch(found, SIZES, most), expected, lengths, packing)
    over = [rows_lib.overflowed(row, most) for row in found]
    assert over == [max(0, len(row) - most) for row in expected]
    binds += free != bound
    several += len(bound) > packing.open_rows > 1
    lost += sum(over) > 0
  # The cases have what they are there for.
  assert min(binds, several) >= 15
  assert lost >= 15 if overflow == "drop" else lost == 0


def indices(row):
  count = row["image_segment_ids"].max()
  return tuple(row["image"][:count, 1].tolist())


def test_rows_are_shuffled_among_those_that_were_open_together():
  rng = np.random.default_rng(0)
  lengths = rng.integers(1, 5, 400).tolist()
  packing = Packing(8, 8, open_rows=10)
  plain = [indices(row) for row in Feed(lengths).rows(packing)]

  def shuffled(seed):
    return [indices(row) for row in Feed(lengths).rows(packing, seed)]

  assert shuffled(3) == shuffled(3)
  assert shuffled(3) != shuffled(4)
  assert shuffled(0) != plain
  orders = set()
  for first in range(0, len(plain) - 9, 10):
    group = plain[first : first + 10]
    mixed = shuffled(3)[first : first + 10]
    assert sorted(mixed) == sorted(group)
    orders.add(tuple(group.index(row) for row in mixed))
  # No order twice among so few of 10!.
  assert len(orders) == len(plain) // 10 >= 10


@pytest.mark.parametrize("seed", [1, 10, 23])
@pytest.mark.parametrize("shuffle_seed", [None, 5])
@pytest.mark.parametrize("overflow", ["next", "drop"])
def test_rows_go_on_from_any_state(seed, shuffle_seed, overflow):
  lengths, packing = random_case(seed)
  packing = dataclasses.replace(packing, overflow=overflow, open_rows=2)
  whole = [indices(row) for row in Feed(lengths).rows(packing, shuffle_seed)]
  assert len(whole) > 4
  going = Feed(lengths).rows(packing, shuffle_seed)
  for taken in range(len(whole) + 1):
    state = going.get_state()
    assert set(state) == {"parent", "next_row", "counter"}
    resumed = Feed(lengths).rows(packing, shuffle_seed)
    resumed.set_state(state)
    assert [indices(row) for row in resumed] == whole[taken:]
    next(going, None)


@pytest.mark.parametrize(
  ("fields", "text"),
  [
    (dict(row_length=2**20 + 1), "row_length is 1048577: give 1 to 1048576"),
    (dict(max_images=0), "max_images is 0: give 1 to 4096"),
    (dict(open_rows=0), "open_rows is 0: give 1 to 65536"),
    (
      dict(row_length=8, max_images=9),
      "max_images is 9, .* a row of 8 patches .*: give at most 8",
    ),
    (dict(overflow="skip"), "overflow is 'skip': give 'next' or 'drop'"),
    (dict(too_long="crop"), "too_long is 'crop': give 'resize' or 'error'"),
    (dict(loss="total"), "loss is 'total': give 'mean' or 'sum'"),
  ],
)
def test_refusals(fields, text):
  with pytest.raises(ValueError, match=text):
    Packing(**dict(row_length=256, max_images=8) | fields)


def check(batch, rows, lengths, packing):
  """A batch holds the images `rows`, but for those beyond max_images."""
  tokens, slots = batch.inputs, packing.max_images
  assert (tokens.patch_sizes, tokens.num_images) == (SIZES, slots)
  for r, row in enumerate(rows):
    cells = [image(i, lengths[i])["cells"] for i in row[:slots]]
    cells = np.concatenate([*cells, np.zeros((0, 5), np.int32)])
    n, ids = len(cells), row[:slots]
    members = [lengths[i] for i in ids]
    for array, expected in (
      (tokens.patches[r], np.repeat(np.add(ids, 1), members)[:, None]),
      (tokens.segments[r], np.repeat(np.arange(len(ids)) + 1, members)),
      (tokens.coords[r], cells[:, :2]),
      (tokens.grid_hw[r] - 1, cells[:, 2:4] - 1),
      (tokens.size_index[r], cells[:, 4]),
      (batch.labels[r], [i % 7 for i in ids]),
      (batch.index[r] + 1, [101 + i for i in ids]),
      (batch.weights[r], [1] * len(ids)),
    ):
      expected = np.broadcast_to(expected, (len(expected), *array.shape[1:]))
      np.testing.assert_array_equal(array[: len(expected)], expected)
      assert not array[len(expected) :].any()
    assert n == sum(members)


def test_an_empty_row_is_legal_padding():
  packing = Packing(8, 3)
  (row,) = Feed([2, 3]).rows(packing)
  empty = rows_lib.empty_row(packing, PIXELS)
  for name, array in empty.items():
    assert (array.shape, array.dtype) == (row[name].shape, row[name].dtype)
  assert rows_lib.overflowed(empty, 3) == 0
  batch = rows_lib.to_batch([row, empty], SIZES, 3)
  check(batch, [[0, 1], []], [2, 3], packing)
  one_size = rows_lib.to_batch([row], SIZES[:1], 3)
  assert one_size.inputs.size_index is None
