import jax
import numpy as np
import pytest

from flexivit_jax.training import sharding


def test_rows_are_spread_over_all_devices():
  mesh = sharding.make_mesh()
  x = np.arange(32).reshape(16, 2)
  placed = sharding.to_devices({"x": x}, mesh)["x"]
  assert [s.data.shape for s in placed.addressable_shards] == [(2, 2)] * 8
  np.testing.assert_array_equal(placed, x)


def test_shapes_say_what_to_devices_returns():
  mesh = sharding.make_mesh()
  x = np.zeros((16, 3), np.uint8)
  shape, placed = sharding.shapes(x, mesh), sharding.to_devices(x, mesh)
  assert (shape.shape, shape.dtype) == (placed.shape, placed.dtype)
  assert shape.sharding == placed.sharding


@pytest.mark.parametrize(
  ("batch_size", "way_out"), [(12, "8 or 16"), (3, "take 8$"), (0, "take 8$")]
)
def test_batch_that_devices_cannot_share_is_refused(batch_size, way_out):
  mesh = sharding.make_mesh()
  assert jax.device_count() == 8
  with pytest.raises(
    ValueError, match=f"{batch_size} images.*8 devices.*{way_out}"
  ):
    sharding.check_batch_size(batch_size, mesh)
  sharding.check_batch_size(16, mesh)


@pytest.mark.parametrize(("wanted", "rows"), [(1, 8), (8, 8), (100, 104)])
def test_evaluation_batches_are_rounded_up(wanted, rows):
  assert sharding.round_up(wanted, sharding.make_mesh()) == rows
