"""Quantities and tables as text."""

from collections.abc import Sequence


def format_bytes(count: int) -> str:
  """With the binary unit that fits: "1.5 GiB", "340.0 MiB", "12.0 KiB"."""
  for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
    if count >= unit:
      return f"{count / unit:.1f} {name}"
  return f"{count} bytes"


def align(rows: Sequence[Sequence[str]]) -> str:
  """Cells as text in columns, each as wide as its widest, flush right."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return "\n".join(
    "  ".join(
      cell.rjust(width) for cell, width in zip(row, widths, strict=True)
    )
    for row in rows
  )
