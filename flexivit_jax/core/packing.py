"""First-fit packing of images into rows of a fixed number of tokens.

Patch n' Pack (arXiv:2307.06304, appendix A.3). Rows are open at the same time,
so many; an image goes to the first that has room for its tokens and for one
image more. When none has, all of them are closed, and the image opens the next.
"""

from collections.abc import Iterable


def first_fit(
  lengths: Iterable[int],
  row_length: int,
  *,
  max_images: int | None = None,
  open_rows: int | None = None,
) -> list[list[int]]:
  """Which images share a row.

  Args:
    lengths: tokens of each image, 1 to row_length.
    row_length: tokens of a row.
    max_images: of a row; None: any number.
    open_rows: rows that are open at the same time; None: all stay open.

  Returns:
    For each row the numbers of its images, ascending; rows in the order in
    which they were opened.

  Raises:
    ValueError: an image does not fit into an empty row.
  """
  closed: list[list[int]] = []
  rows: list[list[int]] = []
  free: list[int] = []
  for i, length in enumerate(lengths):
    if not 1 <= length <= row_length:
      raise ValueError(
        f"image {i} has {length} tokens, and a row {row_length}: resize it to "
        "1 to that many, or take longer rows"
      )
    fits = (
      r
      for r, row in enumerate(rows)
      if length <= free[r] and (max_images is None or len(row) < max_images)
    )
    row = next(fits, None)
    if row is None:
      if open_rows is not None and len(rows) == open_rows:
        closed += rows
        rows, free = [], []
      rows.append([])
      free.append(row_length)
      row = len(rows) - 1
    rows[row].append(i)
    free[row] -= length
  return closed + rows
