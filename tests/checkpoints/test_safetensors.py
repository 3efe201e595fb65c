"""The safetensors container: written as the library does, refused in a line."""

import io
import json
import pickle
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from flexivit_jax.checkpoints import safetensors as safetensors_lib

AGAIN = "get it from its source again"
DTYPES = (
  *("float16", "float32", "float64"),
  *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)


def _arrays():
  """One of each kind, of any bits: NaNs of all payloads are among them."""
  rng = np.random.default_rng(0)
  arrays = {
    name: np.frombuffer(rng.bytes(4096), name).reshape(2, -1) for name in DTYPES
  }
  half = np.frombuffer(rng.bytes(4096), ml_dtypes.bfloat16)
  return arrays | {
    "bool": rng.random((2, 5)) < 0.5,
    "bfloat16": half.reshape(2, -1),
    "deep.er.bfloat16 of no axes": half[7].reshape(()),
    "no axes": np.float32(3).reshape(()),
    "empty": np.zeros((3, 0, 2), np.float32),
    "empty bfloat16": np.zeros((0, 2), ml_dtypes.bfloat16),
    "columns": np.asfortranarray(arrays["float32"]),
    "every other": arrays["float32"][:, ::-2],
    "every third of one axis": np.arange(10.0)[::3],
    "bfloat16 columns": half.reshape(2, -1).T,
    'é 猫 "quoted"': np.arange(3),
  }


def _assert_identical(got, expected):
  assert got.keys() == expected.keys()
  for name, array in expected.items():
    assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape)
    assert got[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("metadata", [{}, {"format": "pt", "é": "ü\n"}])
def test_what_is_written_is_read(tmp_path, metadata):
  path = tmp_path / "a.safetensors"
  safetensors_lib.write(path, _arrays(), metadata)
  arrays, found = safetensors_lib.read(path)
  _assert_identical(arrays, _arrays())
  assert found == metadata
  assert all(array.flags.writeable for array in arrays.values())


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}])
def test_the_bytes_are_those_of_the_library(tmp_path, metadata):
  path = tmp_path / "a.safetensors"
  safetensors_lib.write(path, _arrays(), metadata)
  # The library takes the memory as it lies, which must be in order.
  arrays = {k: np.asarray(v, order="C") for k, v in _arrays().items()}
  expected = safetensors.numpy.save(arrays, metadata or None)
  assert path.read_bytes() == expected


def test_equal_content_gives_equal_bytes(tmp_path):
  first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
  safetensors_lib.write(first, _arrays(), {"a": "1", "b": "2", "c": "3"})
  other = {
    name: array.copy("F").astype(array.dtype.newbyteorder(">"))
    for name, array in reversed(_arrays().items())
  }
  safetensors_lib.write(second, other, {"c": "3", "b": "2", "a": "1"})
  assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
  ("name", "array", "metadata", "text"),
  [
    ("w", np.array(["a"]), {}, "w holds <U1: safetensors has no such type"),
    ("w", np.zeros(2), {"a": 1}, "metadata 'a': 1 are not two texts"),
    ("__metadata__", np.zeros(2), {}, "no array can be named __metadata__"),
  ],
)
def test_what_would_not_be_read_is_not_written(
  tmp_path, name, array, metadata, text
):
  with pytest.raises(ValueError) as error:
    safetensors_lib.write(tmp_path / "a.safetensors", {name: array}, metadata)
  assert str(error.value) == text
  assert list(tmp_path.iterdir()) == []


def _peak(function, *args):
  """What it returns, and the bytes that it had at most."""
  tracemalloc.start()
  try:
    returned = function(*args)
    return returned, tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()


def test_nothing_is_held_twice(tmp_path):
  arrays = {name: np.ones(2**22, np.float32) for name in "abc"}
  size = sum(array.nbytes for array in arrays.values())
  path = tmp_path / "a.safetensors"
  # The code's own, and a piece of what the sum is made of.
  assert _peak(safetensors_lib.write, path, arrays, {})[1] < 2**20
  assert _peak(safetensors_lib.read, path)[1] < size + 2**20


def _refusal(path):
  with pytest.raises(ValueError) as error:
    safetensors_lib.read(path)
  start = f"{path}: not a readable safetensors file: "
  assert str(error.value).startswith(start)
  assert str(error.value).isprintable()  # one line, and nothing for terminals
  return str(error.value).removeprefix(start)


def _file(header, data=b""):
  """A file of a header, as text or as plain values, and what follows."""
  if not isinstance(header, bytes):
    header = json.dumps(header).encode()
  return len(header).to_bytes(8, "little") + header + data


def _entry(dtype, shape, start, end):
  return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


WHOLE = _file({"w": _entry("F32", [3], 0, 12)}, bytes(12))
NOT_COVERED = "incomplete metadata, file not fully covered"


@pytest.mark.parametrize(
  ("content", "text"),
  [
    (b"", f"header too small; {AGAIN}"),
    (WHOLE[:30], f"invalid header length; {AGAIN}"),
    (WHOLE[:-1], f"{NOT_COVERED}; {AGAIN}"),
    (
      b"<!DOCTYPE html><html><head>404",
      f"header too large; it begins with b'<!DOCTYPE html><html><he': {AGAIN}",
    ),
    (
      (2**63).to_bytes(8, "little") + WHOLE[8:],
      f"header too large; {AGAIN}",
    ),
    (
      _file({"w": _entry("F32", [3], 0, 8)}, bytes(8)),
      f"invalid shape, data type, or offset for tensor; {AGAIN}",
    ),
    (
      _file({"w": _entry("F32", [2**40, 2**40], 0, 8)}, bytes(8)),
      f"overflow computing buffer size from shape and/or element type; {AGAIN}",
    ),
    (
      _file(
        {"v": _entry("F32", [2], 0, 8), "w": _entry("F32", [2], 4, 12)},
        bytes(12),
      ),
      f"invalid offset for tensor `w`; {AGAIN}",
    ),
  ],
)
def test_what_is_no_safetensors_is_refused(tmp_path, content, text):
  path = tmp_path / "a.safetensors"
  path.write_bytes(content)
  assert _refusal(path) == text


def _zipped():
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as archive:
    archive.writestr("archive/data.pkl", pickle.dumps({}))
  return buffer.getvalue()


@pytest.mark.parametrize(
  "content",
  [
    _zipped(),
    pickle.dumps(0x1950A86A20F9469CFC6C, 2),  # how torch.save begins before 1.6
    *(pickle.dumps({"w": list(range(9))}, p) for p in (2, 3, 4, 5)),
  ],
)
def test_pickles_are_refused_with_the_way_out(tmp_path, content):
  path = tmp_path / "pytorch_model.bin"
  path.write_bytes(content)
  assert _refusal(path).endswith(
    "; it is a pickle or a zip file, as torch.save writes them: those are code "
    "and are not run here, so convert it to safetensors where it came from"
  )


@pytest.mark.parametrize("code", ["F8_E4M3", "F8_E5M2", "C64", "F4"])
def test_types_that_are_left_out_are_refused_by_name(tmp_path, code):
  path = tmp_path / "a.safetensors"
  size = {"C64": 16, "F4": 1}.get(code, 2)
  path.write_bytes(_file({"w": _entry(code, [2], 0, size)}, bytes(size)))
  assert _refusal(path) == (
    f"w holds {code}: convert it to one of BOOL, U8, I8, I16, U16, F16, BF16, "
    "I32, U32, F32, F64, I64, U64"
  )


def test_cut_files_are_refused(tmp_path):
  path = tmp_path / "a.safetensors"
  safetensors_lib.write(path, _arrays(), {"a": "1"})
  whole = path.read_bytes()
  for length in np.random.default_rng(0).integers(0, len(whole), 50):
    path.write_bytes(whole[:length])
    assert _refusal(path).endswith(AGAIN)
