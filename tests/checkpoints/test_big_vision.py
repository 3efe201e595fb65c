import io
import pathlib
import random
import tracemalloc
import zipfile

import numpy as np
import pytest

from flexivit_jax.checkpoints import big_vision

DATA = pathlib.Path(__file__).parents[1] / "data"


def _flat(name="flexivit_gap"):
  golden = np.load(DATA / f"big_vision_{name}.npz")
  prefix = "params/"
  return {
    k.removeprefix(prefix): golden[k]
    for k in golden.files
    if k.startswith(prefix)
  }


@pytest.mark.parametrize("prefix", ["params/", ""])
def test_reads_with_and_without_prefix(tmp_path, prefix):
  flat = _flat()
  path = tmp_path / "a.npz"
  np.savez(path, **{prefix + k: v for k, v in flat.items()})
  got = big_vision.read(path)
  assert got.keys() == flat.keys()
  np.testing.assert_array_equal(got["head/kernel"], flat["head/kernel"])


@pytest.mark.parametrize("name", ["tok", "gap", "map"])
def test_layout_of_flexivit(name):
  layout = big_vision.layout(_flat(f"flexivit_{name}"), "file")
  assert layout == big_vision.Layout(
    width=48,
    depth=2,
    mlp_dim=96,
    num_heads=3,
    pool=name,
    kernel_hw=(32, 32),
    channels=3,
    grid=(7, 7),
    num_classes=10,
    representation=False,
  )


def test_tables_that_are_not_square_need_their_grid():
  flat = _flat() | {"pos_embedding": np.zeros((1, 48, 48))}
  with pytest.raises(ValueError, match=r"48 positions.*posemb_grid=\(rows"):
    big_vision.layout(flat, "file")
  with pytest.raises(ValueError, match=r"48 positions are not a grid of 5x9"):
    big_vision.layout(flat, "file", (5, 9))
  assert big_vision.layout(flat, "file", (6, 8)).grid == (6, 8)


def test_files_without_positions_or_head():
  flat = _flat()
  for name in ("pos_embedding", "head/kernel", "head/bias"):
    del flat[name]
  layout = big_vision.layout(flat, "file")
  assert (layout.grid, layout.num_classes) == (None, 0)


def test_refusals(tmp_path):
  flat = _flat()
  del flat["embedding/kernel"]
  with pytest.raises(ValueError, match="file: no array embedding/kernel"):
    big_vision.layout(flat, "file")
  flat["Transformer/encoderblock/LayerNorm_0/scale"] = np.zeros((2, 48))
  with pytest.raises(ValueError, match="stacked"):
    big_vision.layout(flat, "file")


# Files that are not what they should be.


def _refusal(path):
  with pytest.raises(ValueError) as error:
    big_vision.read(path)
  start = f"{path}: not a readable npz file: "
  assert str(error.value).startswith(start)
  return str(error.value).removeprefix(start)


def _npy(array, **kwargs):
  buffer = io.BytesIO()
  np.lib.format.write_array(buffer, array, **kwargs)
  return buffer.getvalue()


def _zip(path, **members):
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, content in members.items():
      archive.writestr(f"{name}.npy", content)
  return path


def test_what_is_no_npz_is_refused(tmp_path):
  path = tmp_path / "broken.npz"
  assert "No such file" in _refusal(path)
  for content in (b"", b"<html>404</html>", b"PK\x03\x04 nothing else"):
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


def test_a_bomb_is_refused_before_it_is_read(tmp_path):
  path = tmp_path / "bomb.npz"
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    with archive.open("params/a.npy", "w", force_zip64=True) as file:
      np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": (2**24,)}
      )
      for _ in range(64):
        file.write(bytes(2**20))
  size = path.stat().st_size
  assert size < 100_000
  tracemalloc.start()
  try:
    text = _refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  # 64 MiB and a header of 128 bytes.
  assert text == (
    f"it declares 67,108,992 bytes and has {size:,}; weights do not compress "
    "20 times, so get it from its source again"
  )
  # numpy's arrays count; the error itself and the directory take some kB.
  assert peak < 2**20


def test_zeros_of_a_small_model_may_compress(tmp_path):
  # 16 MiB with all headers is the most that any file may declare.
  fits = 16 * 2**20 - 128
  path = tmp_path / "zeros.npz"
  np.savez_compressed(path, a=np.zeros(fits, np.uint8))
  assert path.stat().st_size < 2**20
  assert big_vision.read(path)["a"].shape == (fits,)
  np.savez_compressed(path, a=np.zeros(fits + 1, np.uint8))
  assert _refusal(path).startswith("it declares 16,777,217 bytes and has ")
  # As much as it likes, where the file has a twentieth of it.
  noise = np.random.default_rng(0).integers(0, 256, 2**20, np.uint8)
  np.savez_compressed(path, a=np.zeros(fits + 1, np.uint8), b=noise)
  assert big_vision.read(path)["a"].shape == (fits + 1,)


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
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    header, {"descr": "<f4", "fortran_order": False, "shape": shape}
  )
  path = _zip(tmp_path / "a.npz", w=header.getvalue() + bytes(48))
  assert _refusal(path).startswith(f"w.npy {text}")


def test_headers_that_are_none_are_refused(tmp_path):
  good = _npy(np.zeros(3, np.float32))
  start = good[:10]
  # An open bracket ends in tokenize's own exception, 20,000 characters in
  # numpy's advice to trust the file.
  for header in (
    b"{'descr': (",
    b"{}",
    b"[]",
    b"\xff",
    b"{'a': '" + b"x" * 20_000,
  ):
    length = len(header).to_bytes(2, "little")
    path = _zip(tmp_path / "a.npz", w=start[:8] + length + header)
    assert _refusal(path) == "w.npy has no header of an array"
  later = good[:6] + b"\x09\x00" + good[8:]
  path = _zip(tmp_path / "a.npz", w=later)
  assert _refusal(path) == "w.npy has no header of an array"


def test_both_header_versions_and_orders_are_read(tmp_path):
  array = np.arange(6, dtype=np.float32).reshape(2, 3)
  path = _zip(
    tmp_path / "a.npz",
    old=_npy(array, version=(1, 0)),
    new=_npy(array, version=(2, 0)),
    columns=_npy(np.asfortranarray(array)),
  )
  got = big_vision.read(path)
  assert sorted(got) == ["columns", "new", "old"]
  for value in got.values():
    np.testing.assert_array_equal(value, array)


def test_a_locked_file_is_refused(tmp_path):
  path = tmp_path / "a.npz"
  np.savez(path, w=np.zeros(3))
  locked = bytearray(path.read_bytes())
  for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
    locked[locked.index(mark) + flags] |= 1
  path.write_bytes(locked)
  assert "encrypted" in _refusal(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_files_are_refused_or_equal(tmp_path, save):
  flat = {k: v for k, v in _flat().items() if v.size < 3000}
  path = tmp_path / "a.npz"
  save(path, **flat)
  whole = path.read_bytes()
  rng = random.Random(0)  # noqa: S311
  refusals = []
  for attempt in range(60):
    damaged = bytearray(whole)
    if attempt % 2:
      del damaged[rng.randrange(len(whole)) :]
    else:
      damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
    path.write_bytes(damaged)
    try:
      got = big_vision.read(path)
    except ValueError as e:
      refusals.append(str(e))
      continue
    # Dates and the like do not matter to the arrays, which have checksums.
    assert got.keys() == flat.keys()
    assert all(np.array_equal(got[name], flat[name]) for name in flat)
  start = f"{path}: not a readable npz file: "
  assert all(text.startswith(start) for text in refusals)
  # All 30 that are cut, and nearly all of the rest.
  assert len(refusals) > 45


def _fail(monkeypatch, error):
  def fail(*args, **kwargs):
    raise error

  monkeypatch.setattr(np.lib.format, "read_array", fail)


def test_an_error_without_text_is_named(tmp_path, monkeypatch):
  # zipfile raises a bare EOFError where data ends early.
  path = tmp_path / "a.npz"
  np.savez(path, w=np.zeros(3))
  _fail(monkeypatch, EOFError())
  assert _refusal(path) == "EOFError"


def test_lack_of_memory_is_not_the_files_fault(tmp_path, monkeypatch):
  path = tmp_path / "a.npz"
  np.savez(path, w=np.zeros(3))
  _fail(monkeypatch, MemoryError())
  with pytest.raises(MemoryError):
    big_vision.read(path)
