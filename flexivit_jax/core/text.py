"""Quantities, values, names and tables as text."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


def format_bytes(count: int) -> str:
  """With the binary unit that fits: "1.5 GiB", "340.0 MiB", "12.0 KiB"."""
  for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
    if count >= unit:
      return f"{count / unit:.1f} {name}"
  return f"{count} bytes"


def align(rows: Sequence[Sequence[str]], left: int = 0) -> str:
  """Cells as text in columns, each as wide as its widest.

  Args:
    left: how many columns are flush left; the others are flush right.
  """
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return "\n".join(
    "  ".join(
      cell.ljust(width) if i < left else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    for row in rows
  )


def cut(text: str, length: int) -> str:
  """At most so many characters, with "..." where some are left out."""
  return text if len(text) <= length else text[: length - 3] + "..."


def show(value: Any) -> str:
  """Any value in one line of at most 80 characters."""
  try:
    return cut(" ".join(repr(value).split("\n")), 80)
  except ValueError:  # Python refuses to print an int of so many digits
    return "a number of thousands of digits"


def listed(names: Iterable[Any]) -> str:
  """Names, as many as one or two lines hold."""
  shown, names = [], list(map(str, names))
  while names and sum(map(len, shown)) < 300:
    shown.append(cut(names.pop(0), 100))
  more = f" and {len(names)} more" if names else ""
  return ", ".join(shown) + more


def quoted(names: Iterable[Any]) -> str:
  """All names, each as Python writes it."""
  return ", ".join(map(repr, names))


def nearest(word: Any, valid: Iterable[Any]) -> str | None:
  """The valid word that was meant, or None; case does not matter."""
  written = {str(v).lower(): str(v) for v in valid}
  close = difflib.get_close_matches(str(word).lower(), written, n=1)
  return written[close[0]] if close else None


def did_you_mean(word: Any, valid: Iterable[Any]) -> str:
  """ " (did you mean 'gap'?)", or nothing."""
  meant = nearest(word, valid)
  return f" (did you mean {meant!r}?)" if meant else ""
