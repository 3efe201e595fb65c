"""Names of splits and slices of them."""

import re

import numpy as np
import pytest

from flexivit_jax.data.sources.splits import parse_split, slice_indices


@pytest.mark.parametrize(
  ("split", "parts"),
  [
    ("train", ("train", None, None)),
    ("train_2[:90%]", ("train_2", None, "90%")),
    ("train[1200:]", ("train", "1200", None)),
    ("test[5%:100]", ("test", "5%", "100")),
    ("test[:]", ("test", None, None)),
  ],
)
def test_the_parts_of_a_split(split, parts):
  assert parse_split(split) == parts


@pytest.mark.parametrize(
  "split",
  ["", "train[", "train[5]", "train[-5:]", "train[:1.5%]", "train[%:]", "a b"],
)
def test_what_is_no_split(split):
  text = re.escape(f"split {split!r}: give a name such as 'train', or a slice")
  for read in (parse_split, lambda s: slice_indices(s, 10)):
    with pytest.raises(ValueError, match=text):
      read(split)


@pytest.mark.parametrize("total", [10, 101])
@pytest.mark.parametrize("cut", ["3", "33%", "50%"])
def test_complementary_slices_share_nothing_and_miss_nothing(total, cut):
  low, high = (slice_indices(s, total) for s in (f"a[:{cut}]", f"a[{cut}:]"))
  assert sorted([*low, *high]) == list(range(total))
  expected = round(total * int(cut[:-1]) / 100) if "%" in cut else int(cut)
  assert len(low) == expected


def test_a_slice_of_sorted_data_holds_every_class():
  labels = np.repeat(np.arange(4), 50)
  taken = labels[slice_indices("a[:20%]", 200)]
  # 40 of 200 are 10 of each class on average; the shuffle is fixed.
  assert min(np.bincount(taken, minlength=4)) >= 4


def test_a_slice_is_always_the_same():
  for split in ("train", "train[:]"):
    np.testing.assert_array_equal(slice_indices(split, 5), [0, 1, 2, 3, 4])
  once, again = (slice_indices("a[:8]", 100) for _ in range(2))
  np.testing.assert_array_equal(once, again)
  # Of another split with as many examples, the same: only the total counts.
  np.testing.assert_array_equal(once, slice_indices("b[0:8%]", 100))


@pytest.mark.parametrize("split", ["a[:0]", "a[10:]", "a[6:6]", "a[7:3]"])
def test_an_empty_slice(split):
  text = re.escape(f"split {split!r} takes none of 10 examples")
  with pytest.raises(ValueError, match=text):
    slice_indices(split, 10)
