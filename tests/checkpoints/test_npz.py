"""The npz container: what is written is read, and what is none is refused."""

import io
import random
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest

from flexivit_jax.checkpoints import npz

DTYPES = (
  *("float16", "float32", "float64", "complex64", "bool"),
  *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)


def _arrays():
  """One of each kind, of any bits: NaNs of all payloads are among them."""
  rng = np.random.default_rng(0)
  arrays = {
    name: np.frombuffer(rng.bytes(4096), name).reshape(2, -1)
    for name in DTYPES
    if name != "bool"
  }
  arrays["bool"] = rng.random((2, 5)) < 0.5
  half = np.frombuffer(rng.bytes(4096), ml_dtypes.bfloat16)
  return arrays | {
    "bfloat16": half.reshape(2, -1),
    "deep/er/bfloat16 of no axes": half[7].reshape(()),
    "no axes": np.float32(3).reshape(()),
    "empty": np.zeros((3, 0, 2), np.float32),
    "empty bfloat16": np.zeros((0, 2), ml_dtypes.bfloat16),
    "columns": np.asfortranarray(arrays["float32"]),
    "every other": arrays["float32"][:, ::-2],
    "every third of one axis": np.arange(10.0)[::3],
    "bfloat16 columns": half.reshape(2, -1).T,
    "larger than the pieces": np.frombuffer(rng.bytes(2**20 + 4), "float32"),
  }


def _assert_identical(got, expected):
  assert got.keys() == expected.keys()
  for name, array in expected.items():
    assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape)
    assert got[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("metadata", [None, {}, {"é": [1, {"a": None}]}])
def test_what_is_written_is_read(tmp_path, metadata):
  path = tmp_path / "a.npz"
  npz.write(path, _arrays(), metadata)
  arrays, found = npz.read(path)
  _assert_identical(arrays, _arrays())
  assert found == metadata
  assert all(array.flags.writeable for array in arrays.values())


def test_what_numpy_writes_is_read(tmp_path):
  path = tmp_path / "a.npz"
  for save in (np.savez, np.savez_compressed):
    save(path, **_arrays())
    arrays, metadata = npz.read(path)
    _assert_identical(arrays, _arrays())
    assert metadata is None


def test_equal_content_gives_equal_bytes(tmp_path):
  arrays = _arrays()
  npz.write(tmp_path / "a.npz", arrays, {"a": 1, "b": 2})
  other = {
    name: array.copy("F").astype(array.dtype.newbyteorder(">"))
    for name, array in reversed(arrays.items())
  }
  npz.write(tmp_path / "b.npz", other, {"b": 2, "a": 1})
  written = (tmp_path / "a.npz").read_bytes()
  assert written == (tmp_path / "b.npz").read_bytes()
  with zipfile.ZipFile(tmp_path / "a.npz") as archive:
    members = archive.infolist()
  # As early as a zip file can say: no clock was asked.
  assert {m.date_time for m in members} == {(1980, 1, 1, 0, 0, 0)}
  assert {m.compress_type for m in members} == {zipfile.ZIP_STORED}


@pytest.mark.parametrize(
  ("array", "holds"),
  [
    (np.array(["a"]), "dtype('<U1')"),
    (np.zeros(2, [("a", "<f4")]), "dtype([('a', '<f4')])"),
    (np.zeros(2, ml_dtypes.float8_e5m2), "dtype(float8_e5m2)"),
  ],
)
def test_what_would_not_be_read_is_not_written(tmp_path, array, holds):
  with pytest.raises(ValueError) as error:
    npz.write(tmp_path / "a.npz", {"w": array})
  assert str(error.value) == f"w holds {holds}: only numbers are read"
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
  path = tmp_path / "a.npz"
  # A MiB is two pieces of 256 KiB, and the code's own.
  assert _peak(npz.write, path, arrays)[1] < 2**20
  assert _peak(npz.read, path)[1] < size + 2**20


def _refusal(path):
  with pytest.raises(ValueError) as error:
    npz.read(path)
  start = f"{path}: not a readable npz file: "
  assert str(error.value).startswith(start)
  assert str(error.value).isprintable()  # one line, and nothing for terminals
  return str(error.value).removeprefix(start)


def _npy(array, **kwargs):
  buffer = io.BytesIO()
  np.lib.format.write_array(buffer, array, **kwargs)
  return buffer.getvalue()


def _header(shape, dtype="<f4"):
  buffer = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    buffer, {"descr": dtype, "fortran_order": False, "shape": shape}
  )
  return buffer.getvalue()


def _zip(path, method=zipfile.ZIP_DEFLATED, **members):
  with zipfile.ZipFile(path, "w", method) as archive:
    for name, content in members.items():
      archive.writestr(f"{name}.npy", content)
  return path


def test_what_is_no_npz_is_refused(tmp_path):
  path = tmp_path / "broken.npz"
  assert _refusal(path) == f"[Errno 2] No such file or directory: '{path}'"
  for content in (
    b"",
    b"<html>404</html>",
    b"PK\x03\x04 nothing else",
    bytes(5000),
  ):
    path.write_bytes(content)
    assert _refusal(path) == "File is not a zip file"
  np.save(tmp_path / "one.npy", np.zeros(3))
  assert _refusal(tmp_path / "one.npy") == "File is not a zip file"
  _zip(path, notes=b"weights of Tuesday")
  assert _refusal(path) == "notes.npy has no header of an array"
  with zipfile.ZipFile(path, "w") as archive:
    archive.mkdir("params")
  assert _refusal(path) == "params/ has no header of an array"


def test_objects_are_refused_without_advice_to_allow_them(tmp_path):
  path = tmp_path / "pickled.npz"
  fields = np.zeros(2, [("a", np.float32), ("b", object)])
  for array in (np.array([{}], dtype=object), fields):
    np.savez(path, a=array)
    assert _refusal(path) == (
      "a.npy holds Python objects, which are code and are not run here: save "
      "it as numbers"
    )


@pytest.mark.parametrize(
  ("dtype", "holds"),
  [
    ("<U2", "dtype('<U2')"),
    ("|V4", "dtype('V4')"),
    # Two bytes each, as bfloat16, but with a type.
    ([("a", "<u2")], "dtype([('a', '<u2')])"),
  ],
)
def test_what_is_no_number_is_refused(tmp_path, dtype, holds):
  path = _zip(tmp_path / "a.npz", w=_header((0,), dtype))
  assert _refusal(path) == f"w.npy holds {holds}: only numbers are read"


def test_a_bomb_is_refused_before_it_is_read(tmp_path):
  path = tmp_path / "bomb.npz"
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    with archive.open("params/a.npy", "w", force_zip64=True) as file:
      file.write(_header((2**26,)))
      for _ in range(256):
        file.write(bytes(2**20))
  size = path.stat().st_size
  assert size < 300_000
  text, peak = _peak(_refusal, path)
  # 256 MiB and a header of 128 bytes.
  assert text == (
    f"it declares 268,435,584 bytes and has {size:,}; weights do not compress "
    "20 times, so get it from its source again"
  )
  # numpy's arrays count; the error itself and the directory take some kB.
  assert peak < 2**20


@pytest.mark.parametrize(
  ("shape", "text"),
  [
    (
      (3, 10**12),
      "declares shape (3, 1000000000000) of float32, 12,000,000,000",
    ),
    ((2, 3), "declares shape (2, 3) of float32, 24 bytes, and has 48"),
    ((-12,), "declares shape (-12,) of float32, -48 bytes, and has 48"),
  ],
)
def test_headers_that_lie_are_refused(tmp_path, shape, text):
  path = _zip(tmp_path / "a.npz", w=_header(shape) + bytes(48))
  assert _refusal(path).startswith(f"w.npy {text}")


def test_two_arrays_of_one_name_are_refused(tmp_path):
  path = tmp_path / "a.npz"
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("w", _npy(np.zeros(3)))
    archive.writestr("w.npy", _npy(np.ones(3)))
  assert _refusal(path) == "it holds two arrays w"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused_before_they_are_read(tmp_path, method):
  # Of either, zipfile gives out all that some kB hold: 64 MiB here.
  path = _zip(tmp_path / "a.npz", method, w=_header((1,)) + bytes(2**26))
  content = path.read_bytes()
  # The directory, which says 132 bytes: as much as the header.
  directory = content.index(b"PK\x01\x02")
  small = content[: directory + 24] + (132).to_bytes(4, "little")
  path.write_bytes(small + content[directory + 28 :])
  text, peak = _peak(_refusal, path)
  assert text == (
    f"w.npy is compressed by method {method}, which numpy does not write"
  )
  assert peak < 2**20


def test_headers_that_are_none_are_refused(tmp_path):
  good = _npy(np.zeros(3, np.float32))
  start = good[:10]
  # An open bracket ends in tokenize's own exception, a row of signs in a lack
  # of memory of Python's parser, 20,000 characters in numpy's advice to trust
  # the file.
  for header in (
    b"{'descr': (",
    b"{}",
    b"[]",
    b"\xff",
    b"-" * 9000 + b"1",
    b"{'a': '" + b"x" * 20_000,
  ):
    length = len(header).to_bytes(2, "little")
    path = _zip(tmp_path / "a.npz", w=start[:8] + length + header)
    assert _refusal(path) == "w.npy has no header of an array"
  later = good[:6] + b"\x09\x00" + good[8:]
  path = _zip(tmp_path / "a.npz", w=later)
  assert _refusal(path) == "w.npy has no header of an array"


@pytest.mark.parametrize(
  ("content", "text"),
  [
    (b"[1]", "holds [1], not a JSON object"),
    (b"{", "is not JSON: Expecting property name enclosed in double quotes"),
  ],
)
def test_metadata_that_are_none_are_refused(tmp_path, content, text):
  path = tmp_path / "a.npz"
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("flexivit_jax.json", content)
  assert _refusal(path).startswith(f"flexivit_jax.json {text}")


def _written(path, arrays):
  npz.write(path, arrays, {"a": 1})


def _saved(path, arrays):
  np.savez(path, **arrays)


def _compressed(path, arrays):
  np.savez_compressed(path, **arrays)


@pytest.mark.parametrize("save", [_written, _saved, _compressed])
def test_damaged_files_are_refused_or_equal(tmp_path, save):
  arrays = {k: v for k, v in _arrays().items() if v.nbytes < 10_000}
  path = tmp_path / "a.npz"
  save(path, arrays)
  whole = path.read_bytes()
  _, metadata = npz.read(path)
  rng = random.Random(0)  # noqa: S311
  refusals = []
  for attempt in range(100):
    damaged = bytearray(whole)
    if attempt % 2:
      del damaged[rng.randrange(len(whole)) :]
    else:
      damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
    path.write_bytes(damaged)
    try:
      got = npz.read(path)
    except ValueError as e:
      refusals.append(str(e))
      continue
    # Dates and the like do not matter to the arrays, which have checksums.
    _assert_identical(got[0], arrays)
    assert got[1] == metadata
  start = f"{path}: not a readable npz file: "
  assert all(text.startswith(start) for text in refusals)
  # All 50 that are cut, and nearly all of the rest.
  assert len(refusals) > 85


def test_arrays_lie_where_jax_takes_them_over(tmp_path):
  path = tmp_path / "a.npz"
  wanted = {str(n): np.arange(n, dtype=np.float32) for n in (1, 7, 100, 4096)}
  npz.write(path, wanted)
  for name, array in npz.read(path)[0].items():
    assert array.ctypes.data % 64 == 0
    np.testing.assert_array_equal(array, wanted[name])
