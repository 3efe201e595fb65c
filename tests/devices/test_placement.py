import re
import types

import jax
import numpy as np
import pytest

from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.devices import placement


def test_rows_are_spread_over_all_devices():
  mesh = mesh_lib.make_mesh()
  x = np.arange(32).reshape(16, 2)
  placed = placement.to_devices({"x": x}, mesh)["x"]
  assert [s.data.shape for s in placed.addressable_shards] == [(2, 2)] * 8
  np.testing.assert_array_equal(placed, x)


def test_shapes_say_what_to_devices_returns():
  mesh = mesh_lib.make_mesh()
  x = np.zeros((16, 3), np.uint8)
  shape, placed = placement.shapes(x, mesh), placement.to_devices(x, mesh)
  assert (shape.shape, shape.dtype) == (placed.shape, placed.dtype)
  assert shape.sharding == placed.sharding


@pytest.mark.parametrize(
  ("batch_size", "way_out"), [(12, "8 or 16"), (3, "take 8$"), (0, "take 8$")]
)
def test_batch_that_devices_cannot_share_is_refused(batch_size, way_out):
  mesh = mesh_lib.make_mesh()
  assert jax.device_count() == 8
  with pytest.raises(
    ValueError, match=f"{batch_size} images.*8 devices.*{way_out}"
  ):
    mesh_lib.check_batch_size(batch_size, mesh)
  mesh_lib.check_batch_size(16, mesh)


@pytest.mark.parametrize(("wanted", "rows"), [(1, 8), (8, 8), (100, 104)])
def test_evaluation_batches_are_rounded_up(wanted, rows):
  assert mesh_lib.round_up(wanted, mesh_lib.make_mesh()) == rows


def _mesh(*processes):
  """A mesh (data, seq) of devices of these processes."""
  devices = np.array(
    [[types.SimpleNamespace(process_index=i) for i in row] for row in processes]
  )
  mesh = types.SimpleNamespace(devices=devices, axis_names=("data", "seq"))
  # Hashed by what it is, as a mesh.
  return mesh, sorted({i for row in processes for i in row})


def _groups(*processes):
  mesh, indices = _mesh(*processes)
  return [placement.process_rows.__wrapped__(mesh, i) for i in indices]


def test_one_process_has_all_rows():
  assert placement.process_rows(mesh_lib.make_mesh()) == (0, 1)


@pytest.mark.parametrize(
  ("processes", "groups"),
  [
    # Four rows of devices each, one after the other.
    ([[0], [0], [1], [1]], [(0, 2), (1, 2)]),
    # `seq` within a process.
    ([[0, 0], [1, 1]], [(0, 2), (1, 2)]),
    # `seq` over all processes: the same rows.
    ([[0, 0, 1, 1]], [(0, 1), (0, 1)]),
    # Over two of four.
    ([[0, 1], [0, 1], [2, 3], [2, 3]], [(0, 2), (0, 2), (1, 2), (1, 2)]),
    # Not side by side: groups by their first row.
    ([[1], [0], [1], [0]], [(1, 2), (0, 2)]),
    ([[i] for i in range(8)][::-1], [(i, 8) for i in range(8)][::-1]),
  ],
)
def test_which_rows_are_a_processs(processes, groups):
  assert _groups(*processes) == groups


@pytest.mark.parametrize(
  ("processes", "text"),
  [
    # 3 processes of 4 devices, 2 x 6.
    (
      [[0, 0, 0, 0, 1, 1], [1, 1, 2, 2, 2, 2]],
      "2 x 6 (data x seq) devices over 3 processes: process 0 has the rows of "
      "data 0, process 1 those of 0, 1; give all processes equally many "
      "devices, and a seq of 1, 2, 4, 12",
    ),
    # A ring.
    ([[0, 2], [0, 1], [1, 2]], "devices, and a seq of 1, 2, 6"),
    ([[0], [0], [0], [1]], "rows of data 0, 1, 2, process 1 those of 3"),
  ],
)
def test_rows_that_are_shared_in_part_are_refused(processes, text):
  with pytest.raises(ValueError, match=re.escape(text)):
    _groups(*processes)


def test_replicated_arrays_are_everywhere():
  placed = placement.replicate({"x": np.arange(3.0)}, mesh_lib.make_mesh())["x"]
  assert placed.sharding.is_fully_replicated
  assert len(placed.addressable_shards) == 8
  np.testing.assert_array_equal(placed, [0, 1, 2])
