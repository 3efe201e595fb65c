"""Grain's packer against the few lines of core/packing.py, and its batches."""

import dataclasses

import numpy as np
import pytest

from flexivit_jax.data.packing import rows as rows_lib
from flexivit_jax.data.packing.image_list import first_fit
from flexivit_jax.data.packing.rows import Packing

PIXELS = 6  # numbers of a patch


def image(i, length):
  """Image i, whose every number tells of it and of its place."""
  rng = np.random.default_rng(i)
  cells = np.stack(
    [
      np.arange(length),
      np.full(length, i),
      np.full(length, length),
      np.full(length, i + 1),
      np.full(length, i % 2),
    ],
    axis=1,
  )
  return {
    "patches": rng.integers(1, 256, (length, PIXELS), np.uint8),
    "cells": cells.astype(np.int32),
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


def expected_batch(rows, lengths, packing):
  """What `to_batch` must make of the images `rows`, one by one."""
  b, l, e = len(rows), packing.row_length, packing.max_images
  fields = {
    "patches": np.zeros((b, l, PIXELS), np.uint8),
    "coords": np.zeros((b, l, 2), np.int32),
    "grid_hw": np.ones((b, l, 2), np.int32),
    "segments": np.zeros((b, l), np.int32),
    "size_index": np.zeros((b, l), np.int32),
    "labels": np.zeros((b, e), np.int32),
    "weights": np.zeros((b, e), np.float32),
    "index": np.full((b, e), -1, np.int32),
  }
  for r, row in enumerate(rows):
    at = 0
    for slot, i in enumerate(row):
      tokens, one = slice(at, at + lengths[i]), image(i, lengths[i])
      at += lengths[i]
      if slot >= e:
        continue  # left out after packing: its places stay empty
      fields["patches"][r, tokens] = one["patches"]
      fields["coords"][r, tokens] = one["cells"][:, :2]
      fields["grid_hw"][r, tokens] = one["cells"][:, 2:4]
      fields["size_index"][r, tokens] = one["cells"][:, 4]
      fields["segments"][r, tokens] = slot + 1
      fields["labels"][r, slot], fields["index"][r, slot] = one["image"][0]
      fields["weights"][r, slot] = 1
  return fields


def found_batch(batch):
  inputs = dataclasses.asdict(batch.inputs)
  return inputs | {
    "labels": batch.labels,
    "weights": batch.weights,
    "index": batch.index,
  }


SIZES = ((1, 2), (2, 1))


def check(batch, rows, lengths, packing):
  found = found_batch(batch)
  assert found.pop("patch_sizes") == SIZES
  assert found.pop("num_images") == packing.max_images
  assert found.pop("whole_grid") is None
  expected = expected_batch(rows, lengths, packing)
  assert found.keys() == expected.keys()
  for name, array in expected.items():
    assert found[name].dtype == array.dtype, name
    np.testing.assert_array_equal(found[name], array, err_msg=name)


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


def test_one_size_has_no_size_index():
  packing = Packing(8, 3)
  (row,) = Feed([2, 3]).rows(packing)
  batch = rows_lib.to_batch([row], ((1, 2),), 3)
  assert batch.inputs.size_index is None
  assert batch.inputs.patch_sizes == ((1, 2),)


def test_an_empty_row_is_legal_padding():
  packing = Packing(8, 3)
  (row,) = Feed([2, 3]).rows(packing)
  empty = rows_lib.empty_row(packing, PIXELS)
  for name, array in empty.items():
    assert (array.shape, array.dtype) == (row[name].shape, row[name].dtype)
  assert rows_lib.overflowed(empty, 3) == 0
  batch = rows_lib.to_batch([row, empty], SIZES, 3)
  check(batch, [[0, 1], []], [2, 3], packing)


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
