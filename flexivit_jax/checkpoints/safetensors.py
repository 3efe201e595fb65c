"""The safetensors container: flat {name: array}, with texts beside them."""

import json
import pathlib
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import safetensors

from flexivit_jax.checkpoints import atomic, manifest
from flexivit_jax.core.text import show

# In the library's own order, by which it sorts arrays in a file.
_DTYPES = {
  "BOOL": np.dtype(np.bool_),
  "U8": np.dtype(np.uint8),
  "I8": np.dtype(np.int8),
  "I16": np.dtype(np.int16),
  "U16": np.dtype(np.uint16),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "I32": np.dtype(np.int32),
  "U32": np.dtype(np.uint32),
  "F32": np.dtype(np.float32),
  "F64": np.dtype(np.float64),
  "I64": np.dtype(np.int64),
  "U64": np.dtype(np.uint64),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_RANKS = {code: rank for rank, code in enumerate(_DTYPES)}

_AGAIN = "get it from its source again"


def read(
  path: pathlib.Path,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """The file's arrays by name, and its own `__metadata__` (empty if none).

  Raises:
    ValueError: not a safetensors file, or not all of it, or an array is of a
      type that is left out here, such as one of 8-bit floats.
  """
  try:
    # Not its default, a mapping of the file: that ends the process where the
    # file is cut short meanwhile, and holds it in memory twice.
    with safetensors.safe_open(path, "numpy", backend="pread") as file:
      names = file.offset_keys()
      for name in names:
        code = file.get_slice(name).get_dtype()
        if code not in _DTYPES:
          raise ValueError(
            f"{name} holds {code}: convert it to one of {', '.join(_DTYPES)}"
          )
      arrays = {name: file.get_tensor(name) for name in names}
      return arrays, dict(file.metadata() or {})
  except (safetensors.SafetensorError, OSError, ValueError) as e:
    reason = str(e)
    if isinstance(e, safetensors.SafetensorError):
      reason = reason.removeprefix("Error while deserializing header: ")
      reason += _way_out(path)
    raise atomic.refusal(path, "safetensors", reason) from e


# A pickle, or a zip file of some, as torch.save writes them.
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def may_be_meant(path: pathlib.Path) -> bool:
  """Whether a file of any name is one of tensors, damaged or not, or a pickle,
  of which `read` says more."""
  start = _start(path)
  return start[8:9] == b"{" or start.startswith(_PICKLES)


def _start(path):
  with path.open("rb") as file:
    return file.read(24)


def _way_out(path):
  """What the file is instead, by its first bytes."""
  start = _start(path)
  # A safetensors file has the length of its header and then "{".
  if start[8:9] == b"{" or not any(start):
    return f"; {_AGAIN}"
  if start.startswith(_PICKLES):
    return (
      "; it is a pickle or a zip file, as torch.save writes them: those are "
      "code and are not run here, so convert it to safetensors where it came "
      "from"
    )
  return f"; it begins with {show(start)}: {_AGAIN}"


def write(
  path: pathlib.Path,
  arrays: Mapping[str, np.ndarray],
  metadata: Mapping[str, str],
) -> None:
  """Writes arrays and `path`.sha256; equal content gives equal bytes.

  Both files are replaced when all is written; after an exception they are as
  before.

  Not by the library, which orders the metadata anew each time, and has a full
  disk as a text only; the bytes are those that it would write.

  Raises:
    OSError: the disk is full, say.
    ValueError: an array is of a type that the format or `read` does not have,
      a name is taken, or the metadata are not texts.
  """
  arrays = {name: np.asarray(array) for name, array in arrays.items()}
  names, header = _layout(arrays, metadata)
  with (
    manifest.replacing_with_sum(path) as unfinished,
    unfinished.open("xb") as file,
  ):
    file.write(len(header).to_bytes(8, "little") + header)
    for name in names:
      array = np.asarray(arrays[name], order="C")
      array = array.astype(array.dtype.newbyteorder("<"), copy=False)
      file.write(array.reshape(-1).view(np.uint8))


def _layout(arrays, metadata):
  """(the names in the order of their arrays, the file's header)."""
  if "__metadata__" in arrays:
    raise ValueError("no array can be named __metadata__")
  for key, value in metadata.items():
    if not (isinstance(key, str) and isinstance(value, str)):
      raise ValueError(f"metadata {show(key)}: {show(value)} are not two texts")
  header = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
  codes = {}
  for name, array in arrays.items():
    dtype = array.dtype.newbyteorder("=")
    if dtype not in _CODES:
      raise ValueError(f"{name} holds {dtype}: safetensors has no such type")
    codes[name] = _CODES[dtype]
  # The largest types first: so each array lies at a multiple of its type.
  names = sorted(arrays, key=lambda name: (-_RANKS[codes[name]], name))
  end = 0
  for name in names:
    start, end = end, end + arrays[name].nbytes
    header[name] = {
      "dtype": codes[name],
      "shape": arrays[name].shape,
      "data_offsets": (start, end),
    }
  text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
  return names, text + b" " * (-len(text) % 8)
