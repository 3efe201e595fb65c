"""The npz container: flat {name: array}, with JSON beside them.

Files that numpy wrote are read, and numpy reads those that are written here.
"""

import json
import math
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from flexivit_jax.checkpoints import atomic, manifest
from flexivit_jax.core.text import cut, show

METADATA = "flexivit_jax.json"

# Trained weights compress by a tenth. What declares far more than it holds is
# made to fill the memory; zeros of a small or new model may compress well.
MAX_RATIO = 20
MAX_SMALL = 16 * 2**20

# Others may give out any number of bytes for one that is read.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

# Bytes between the file and the array: they stay in the processor's cache.
_CHUNK = 2**18

# What numpy makes of bfloat16, which it does not know.
_RAW_BFLOAT16 = np.dtype("V2")


def read(
  path: pathlib.Path,
) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
  """The file's arrays by name, and the JSON object beside them, if any.

  Nothing is allocated that the file's own sizes do not bear out, and every
  array's CRC-32 is checked. Two bytes without a type, as numpy writes them,
  are bfloat16.

  Raises:
    ValueError: not an npz file; it declares more than MAX_RATIO times its size
      and MAX_SMALL bytes; or an array in it is damaged, holds Python objects
      or anything else than numbers, or is not as large as it declares.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      return _read(archive, os.path.getsize(path))
  except MemoryError:  # the machine's lack, not the file's
    raise
  # zipfile, zlib, ast and tokenize each have exceptions of their own for
  # damaged bytes: BadZipFile, zlib.error, NotImplementedError, TokenError, ...
  except Exception as e:
    raise atomic.refusal(path, "npz", str(e) or type(e).__name__) from e


def _read(archive, size):
  members = archive.infolist()
  _check_declared(members, size)
  arrays, metadata = {}, None
  for member in members:
    if member.compress_type not in _METHODS:
      raise ValueError(
        f"{member.filename} is compressed by method {member.compress_type}, "
        "which numpy does not write"
      )
    if member.filename == METADATA:
      metadata = _metadata(archive.read(member))
      continue
    name = member.filename.removesuffix(".npy")
    if name in arrays:
      raise ValueError(f"it holds two arrays {name}")
    arrays[name] = _array(archive, member)
  return arrays, metadata


def _check_declared(members, size):
  declared = sum(member.file_size for member in members)
  if declared > MAX_SMALL and declared > MAX_RATIO * size:
    raise ValueError(
      f"it declares {declared:,} bytes and has {size:,}; weights do not "
      f"compress {MAX_RATIO} times, so get it from its source again"
    )


def _metadata(text):
  try:
    metadata = json.loads(text)
  except (ValueError, RecursionError) as e:
    raise ValueError(f"{METADATA} is not JSON: {e}") from e
  if not isinstance(metadata, dict):
    raise ValueError(f"{METADATA} holds {show(metadata)}, not a JSON object")
  return metadata


def _array(archive, member):
  """Reads one array, after what its header declares was found to be there."""
  with archive.open(member) as file:
    shape, columns_first, dtype = _header(file, member.filename)
    _check_dtype(dtype, member.filename)
    declared = math.prod(shape) * dtype.itemsize
    held = member.file_size - file.tell()
    if declared != held:
      raise ValueError(
        f"{member.filename} declares shape {show(shape)} of {dtype}, "
        f"{cut(f'{declared:,}', 80)} bytes, and has {held:,}"
      )
    array = _aligned(shape[::-1] if columns_first else shape, dtype)
    # Not by read_array, which parses the header again, and whose pieces are new
    # memory each: it takes a quarter longer.
    left = memoryview(array.reshape(-1).view(np.uint8))
    while left and (count := file.readinto(left[:_CHUNK])):
      left = left[count:]
    if left:
      raise ValueError(f"{member.filename} ends {len(left):,} bytes early")
  if dtype == _RAW_BFLOAT16:
    array = array.view(ml_dtypes.bfloat16)
  array = array.astype(array.dtype.newbyteorder("="), copy=False)
  return array.T if columns_first else array


def _aligned(shape, dtype) -> np.ndarray:
  """An array where JAX on a CPU takes it over without a copy."""
  alignment = 64
  size = math.prod(shape) * dtype.itemsize + alignment
  memory = np.empty(size, np.uint8)
  start = -memory.ctypes.data % alignment
  return np.ndarray(shape, dtype, memory, start)


def _header(file, name):
  """(shape, whether columns come first, dtype)."""
  readers = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  try:
    return readers[np.lib.format.read_magic(file)](file)
  except zipfile.BadZipFile:  # of a small array, the sum was compared already
    raise
  except Exception as e:
    # Not numpy's own text, which recommends allow_pickle.
    raise ValueError(f"{name} has no header of an array") from e


def _check_dtype(dtype, name):
  if dtype.hasobject:
    raise ValueError(
      f"{name} holds Python objects, which are code and are not run here: save "
      "it as numbers"
    )
  # 2: not numpy's own, such as 8-bit floats, of which it would lose the type.
  number = dtype.kind in "biufc" and dtype.isbuiltin != 2
  if not number and dtype != _RAW_BFLOAT16:
    raise ValueError(f"{name} holds {show(dtype)}: only numbers are read")


def write(
  path: pathlib.Path,
  arrays: Mapping[str, np.ndarray],
  metadata: Mapping[str, Any] | None = None,
  *,
  exclusive: bool = False,
) -> None:
  """Writes arrays and `path`.sha256; equal content gives equal bytes.

  Both files are replaced when all is written; after an exception they are as
  before. bfloat16 is written as two bytes without a type.

  Args:
    arrays: of numbers.
    metadata: a JSON object.
    exclusive: nothing is to be replaced.

  Raises:
    FileExistsError: with `exclusive`, somebody else wrote it meanwhile.
    OSError: the disk is full, say.
    ValueError: an array is of a type that would not be read again.
  """
  with (
    manifest.replacing_with_sum(path, exclusive) as unfinished,
    zipfile.ZipFile(unfinished, "x") as archive,
  ):
    for name in sorted(arrays):
      with _member(archive, f"{name}.npy") as file:
        _write_array(file, np.asarray(arrays[name], order="C"), name)
    if metadata is not None:
      with _member(archive, METADATA) as file:
        file.write(json.dumps(dict(metadata), sort_keys=True).encode())


def _member(archive, name):
  # The clock's time would make equal content differ.
  info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
  return archive.open(info, "w", force_zip64=True)


def _write_array(file, array, name):
  array = array.astype(array.dtype.newbyteorder("<"), copy=False)
  if array.dtype == ml_dtypes.bfloat16:
    array = array.view(_RAW_BFLOAT16)
  _check_dtype(array.dtype, name)
  header = np.lib.format.header_data_from_array_1_0(array)
  np.lib.format.write_array_header_1_0(file, header)
  file.write(array.reshape(-1).view(np.uint8))
