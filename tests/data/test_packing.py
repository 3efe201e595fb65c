"""First-fit packing: drawn rows, its laws, and how full rows become."""

import numpy as np
import pytest

from flexivit_jax.data.packing.image_list import first_fit


@pytest.mark.parametrize(
  ("lengths", "options", "rows"),
  [
    ([], {}, []),
    ([4], {}, [[0]]),
    ([1, 1, 1, 1, 1], {}, [[0, 1, 2, 3], [4]]),
    # 3 leaves one place, which the last image takes: first fit looks back.
    ([3, 2, 2, 1], {}, [[0, 3], [1, 2]]),
    # With one open row it cannot.
    ([3, 2, 2, 1], {"open_rows": 1}, [[0], [1, 2], [3]]),
    # With two, the first two are closed together when a third is needed.
    ([3, 2, 3, 1, 2], {"open_rows": 2}, [[0], [1], [2, 3], [4]]),
    ([3, 2, 3, 1, 2], {"open_rows": 3}, [[0, 3], [1, 4], [2]]),
    # First, not best: image 2 goes where it fits first, so image 3 nowhere.
    ([2, 3, 1, 2], {}, [[0, 2], [1], [3]]),
    # A row of two images is full, however many places it has left.
    ([1, 1, 1, 1, 1], {"max_images": 2}, [[0, 1], [2, 3], [4]]),
    ([1, 1, 1], {"max_images": 1, "open_rows": 2}, [[0], [1], [2]]),
    ([1, 3, 1, 1], {"max_images": 2, "open_rows": 1}, [[0, 1], [2, 3]]),
  ],
)
def test_drawn_rows(lengths, options, rows):
  assert first_fit(lengths, 4, **options) == rows
  assert first_fit(iter(lengths), 4, **options) == rows


def random_cases(n):
  rng = np.random.default_rng(0)
  for _ in range(n):
    row_length = int(rng.integers(1, 40))
    lengths = rng.integers(1, row_length + 1, rng.integers(0, 60)).tolist()
    options = {
      "max_images": rng.choice([None, 1, 2, 3, 8]),
      "open_rows": rng.choice([None, 1, 2, 5, 100]),
    }
    yield lengths, row_length, options


def test_every_image_has_one_place_within_the_limits():
  for lengths, row_length, options in random_cases(300):
    rows = first_fit(lengths, row_length, **options)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    for row in rows:
      assert row == sorted(row)
      assert 1 <= len(row) <= (options["max_images"] or len(row))
      assert sum(lengths[i] for i in row) <= row_length
    # Rows are opened in the order of their first images.
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)


def test_no_image_had_room_in_an_earlier_open_row():
  for lengths, row_length, options in random_cases(300):
    rows = first_fit(lengths, row_length, **options)
    open_rows = options["open_rows"] or max(1, len(rows))
    most = options["max_images"] or len(lengths)
    for r, row in enumerate(rows):
      for i in row:
        for other in rows[r // open_rows * open_rows : r]:
          before = [j for j in other if j < i]
          room = row_length - sum(lengths[j] for j in before)
          assert lengths[i] > room or len(before) == most


@pytest.mark.parametrize("length", [0, 5])
def test_an_image_that_fits_no_row_is_refused(length):
  text = f"image 1 has {length} tokens, and a row 4: resize it to 1 to that"
  with pytest.raises(ValueError, match=text):
    first_fit([4, length], 4)
