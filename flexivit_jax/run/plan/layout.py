"""Layouts: how many devices share rows, and how many share tokens."""

import re
from typing import NamedTuple


class Layout(NamedTuple):
  """A mesh of devices.

  Attributes:
    data: groups of devices, each with rows of its own.
    seq: devices of a group, each with a part of every row's tokens.
  """

  data: int
  seq: int

  @property
  def devices(self) -> int:
    return self.data * self.seq

  def __str__(self) -> str:
    return f"data={self.data},seq={self.seq}"


def parse_layout(text: str) -> Layout:
  """The layout of "data=2,seq=4", in any order; what is left out is 1.

  Raises:
    ValueError: it is something else.
  """
  words = text.split(",")
  found = [re.fullmatch(r"(data|seq)=([1-9]\d{0,6})", word) for word in words]
  sizes = {x[1]: int(x[2]) for x in found if x}
  if len(sizes) < len(words):
    raise ValueError(f"{text!r} is no mesh: give data=2,seq=4 say")
  return Layout(**{"data": 1, "seq": 1} | sizes)


def layouts(devices: int) -> tuple[Layout, ...]:
  """Every mesh of so many devices, from data parallelism alone to none."""
  return tuple(
    Layout(devices // n, n) for n in range(1, devices + 1) if devices % n == 0
  )
