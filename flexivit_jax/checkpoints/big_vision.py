"""big_vision's `.npz` checkpoints: its names are ours, so nothing is renamed.

What cannot be read off the arrays (GELU, epsilon, resize convention) is
big_vision's own: tanh, 1e-6, bilinear without antialias.
"""

import dataclasses
import math
import os
import pathlib
import re
import zipfile

import numpy as np

PREFIX = "params/"

# Trained weights compress by a tenth. What declares far more than it holds is
# made to fill the memory; zeros of a small or new model may compress well.
MAX_RATIO = 20
MAX_SMALL = 16 * 2**20


@dataclasses.dataclass(frozen=True)
class Layout:
  """What the shapes of a checkpoint say of its model.

  Attributes:
    pool: "tok", "gap" or "map".
    grid: (rows, cols) of the position table; None: fixed positions.
    num_classes: 0 without a head.
  """

  width: int
  depth: int
  mlp_dim: int
  num_heads: int
  pool: str
  kernel_hw: tuple[int, int]
  channels: int
  grid: tuple[int, int] | None
  num_classes: int
  representation: bool


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The file's arrays as flat {path: array}, without a `params/` prefix.

  Nothing is allocated that the file's own sizes do not bear out.

  Raises:
    ValueError: not an npz file; it declares more than MAX_RATIO times its size
      and MAX_SMALL bytes; or an array in it is damaged, holds Python objects
      or is not as large as it declares.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      members = archive.infolist()
      _check_declared(members, os.path.getsize(path))
      flat = {
        member.filename.removesuffix(".npy"): _array(archive, member)
        for member in members
      }
  except MemoryError:  # the machine's lack, not the file's
    raise
  # zipfile, zlib, ast and tokenize each have exceptions of their own for
  # damaged bytes: BadZipFile, zlib.error, NotImplementedError, TokenError, ...
  except Exception as e:
    text = str(e) or type(e).__name__
    raise ValueError(f"{path}: not a readable npz file: {text}") from e
  prefixed = {
    k.removeprefix(PREFIX): v for k, v in flat.items() if k.startswith(PREFIX)
  }
  return prefixed or flat


def _check_declared(members, size):
  declared = sum(member.file_size for member in members)
  if declared > MAX_SMALL and declared > MAX_RATIO * size:
    raise ValueError(
      f"it declares {declared:,} bytes and has {size:,}; weights do not "
      f"compress {MAX_RATIO} times, so get it from its source again"
    )


def _array(archive, member):
  """Reads one array, after what its header declares was found to be there."""
  readers = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  with archive.open(member) as file:
    try:
      shape, _, dtype = readers[np.lib.format.read_magic(file)](file)
    except Exception as e:
      # Not numpy's own text, which recommends allow_pickle.
      raise ValueError(f"{member.filename} has no header of an array") from e
    if dtype.hasobject:
      raise ValueError(
        f"{member.filename} holds Python objects, which are code and are not "
        "run here: save it as numbers"
      )
    declared = math.prod(shape) * dtype.itemsize
    held = member.file_size - file.tell()
    if declared != held:
      raise ValueError(
        f"{member.filename} declares shape {shape} of {dtype}, {declared:,} "
        f"bytes, and has {held:,}"
      )
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def layout(flat: dict[str, np.ndarray], path, grid=None) -> Layout:
  """Reads the model's shape off the arrays.

  Args:
    grid: (rows, cols) of the position table, needed where it is not square.

  Raises:
    ValueError: an array is missing that every ViT has, or the table is not
      square and `grid` is not given.
  """
  if "Transformer/encoderblock/LayerNorm_0/scale" in flat:
    raise ValueError(
      f"{path}: its layers are stacked (a scanned model); unstack them first"
    )
  block = "Transformer/encoderblock_0"
  query = _get(
    flat, f"{block}/MultiHeadDotProductAttention_0/query/kernel", path
  )
  kernel = _get(flat, "embedding/kernel", path)
  numbers = {
    int(m[1])
    for name in flat
    if (m := re.match(r"Transformer/encoderblock_(\d+)/", name))
  }
  if "MAPHead_0/probe" in flat:
    pool = "map"
  else:
    pool = "tok" if "cls" in flat else "gap"
  table = flat.get("pos_embedding")
  if table is not None:
    grid = _grid(table.shape[1], grid, path)
  return Layout(
    width=query.shape[0],
    depth=max(numbers) + 1,
    mlp_dim=_get(flat, f"{block}/MlpBlock_0/Dense_0/kernel", path).shape[1],
    num_heads=query.shape[1],
    pool=pool,
    kernel_hw=kernel.shape[:2],
    channels=kernel.shape[2],
    grid=None if table is None else grid,
    num_classes=len(flat["head/bias"]) if "head/bias" in flat else 0,
    representation="pre_logits/kernel" in flat,
  )


def _grid(cells, grid, path):
  if grid is None:
    side = math.isqrt(cells)
    grid = (side, side)
  if grid[0] * grid[1] != cells:
    raise ValueError(
      f"{path}: {cells} positions are not a grid of {grid[0]}x{grid[1]}: give "
      "its rows and columns as posemb_grid=(rows, cols)"
    )
  return tuple(grid)


def _get(flat, name, path):
  if name not in flat:
    raise ValueError(
      f"{path}: no array {name}, which every big_vision ViT has; it holds "
      f"{len(flat)} arrays, such as {', '.join(sorted(flat)[:3])}"
    )
  return flat[name]
