"""Quantities as text."""


def format_bytes(count: int) -> str:
  """With the binary unit that fits: "1.5 GiB", "340.0 MiB", "12.0 KiB"."""
  for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
    if count >= unit:
      return f"{count / unit:.1f} {name}"
  return f"{count} bytes"
