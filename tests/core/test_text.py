"""Quantities, values, names and tables as text."""

import pytest

from flexivit_jax.core.text import (
  align,
  cut,
  format_bytes,
  listed,
  nearest,
  quoted,
  show,
)


def test_bytes_have_the_unit_that_fits():
  counts = (0, 1023, 1024, 1536, 2**20 - 1, 2**20, 5 * 2**29, 2**42)
  assert [format_bytes(n) for n in counts] == [
    "0 bytes",
    "1023 bytes",
    "1.0 KiB",
    "1.5 KiB",
    "1024.0 KiB",
    "1.0 MiB",
    "2.5 GiB",
    "4096.0 GiB",
  ]


def test_columns_are_as_wide_as_their_widest_cell():
  rows = [("patch", "tokens"), ("4", "36"), ("128x128", "4")]
  assert align(rows).split("\n") == [
    "  patch  tokens",
    "      4      36",
    "128x128       4",
  ]


def test_long_text_is_cut_to_the_length():
  assert [cut("abcdefgh", n) for n in (9, 8, 7)] == [
    "abcdefgh",
    "abcdefgh",
    "abcd...",
  ]


class TwoLines:
  def __repr__(self):
    return "two\nlines"


def test_a_value_is_one_short_line():
  values = ("a\nb", TwoLines(), (1,) * 100, 10**5000)
  assert [show(value) for value in values] == [
    "'a\\nb'",
    "two lines",
    "(" + "1, " * 25 + "1...",
    "a number of thousands of digits",
  ]


def test_of_many_names_some_are_listed():
  assert listed([]) == ""
  assert listed(["a", 2]) == "a, 2"
  assert listed(map(str, range(1000, 2000))).endswith("1074 and 925 more")
  assert listed(["x" * 500]) == "x" * 97 + "..."


def test_names_are_quoted_and_none_left_out():
  assert quoted({"a": 1, "b's": 2}) == "'a', \"b's\""
  assert quoted(range(1000)).endswith("998, 999")


@pytest.mark.parametrize(
  ("word", "meant"),
  [
    ("widht", "width"),
    ("GAP", "gap"),
    ("tiny", "Tiny"),
    ("zzz", None),
    (7, "7"),
  ],
)
def test_the_nearest_word(word, meant):
  assert nearest(word, ["width", "gap", "Tiny", 7]) == meant
