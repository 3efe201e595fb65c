"""Splits and slices of them: "train", "train[:90%]", "train[1200:]"."""

import re

import numpy as np

_SLICE = re.compile(
  r"(?P<name>\w+)(?:\[(?P<start>(?:\d+%?)?):(?P<stop>(?:\d+%?)?)\])?"
)


def parse_split(split: str) -> tuple[str, str | None, str | None]:
  """ "train[:90%]" as ("train", None, "90%").

  Raises:
    ValueError: not of that form.
  """
  match = _SLICE.fullmatch(split)
  if not match:
    raise ValueError(
      f"split {split!r}: give a name such as 'train', or a slice of it such "
      "as 'train[:90%]' or 'train[1200:]'"
    )
  start, stop = match["start"] or None, match["stop"] or None
  return match["name"], start, stop


def slice_indices(split: str, total: int) -> np.ndarray:
  """Indices, of `total` examples, that a split's slice takes.

  A slice is cut from one fixed shuffle, so that a part of data sorted by class
  holds every class, and complementary slices are disjoint.

  Raises:
    ValueError: the slice is empty.
  """
  _, start, stop = parse_split(split)
  if start is stop is None:
    return np.arange(total)

  def place(text, default):
    if text is None:
      return default
    if text.endswith("%"):
      return round(total * int(text[:-1]) / 100)
    return int(text)

  order = np.random.default_rng(0).permutation(total)
  taken = order[place(start, 0) : place(stop, total)]
  if not len(taken):
    raise ValueError(f"split {split!r} takes none of {total} examples")
  return taken
