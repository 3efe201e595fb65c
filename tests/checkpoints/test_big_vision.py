import pathlib

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
  path = tmp_path / "broken.npz"
  path.write_bytes(b"PK\x03\x04 nothing else")
  with pytest.raises(ValueError, match=r"broken.npz: not a readable npz"):
    big_vision.read(path)
  pickled = tmp_path / "pickled.npz"
  np.savez(pickled, a=np.array([{}], dtype=object))
  with pytest.raises(ValueError, match=r"pickled.npz: not a readable npz"):
    big_vision.read(pickled)


def test_truncated_file_is_refused(tmp_path):
  path = tmp_path / "a.npz"
  np.savez(path, **_flat())
  path.write_bytes(path.read_bytes()[:-1000])
  with pytest.raises(ValueError, match=r"a.npz: not a readable npz"):
    big_vision.read(path)
