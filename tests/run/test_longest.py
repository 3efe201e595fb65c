"""The longest row that fits: it does, and a longer one does not."""

import pytest

from flexivit_jax.models.sizes import SIZES
from flexivit_jax.run.plan import longest, ways
from flexivit_jax.run.plan.step_cost import Cost
from flexivit_jax.run.plan.workload import Layout, Weights, Workload

GIB = 2**30
WORK = Workload(
  rows=64,
  length=196,
  size=SIZES["Ti"],
  weights=Weights(5_000_000, 20_000_000, 40_000_000),
  block_numbers=5_000_000,
  table=Weights(196 * 192, 4 * 196 * 192, 8 * 196 * 192),
  outside=0,
  patch_numbers=3,
  prefix=1,
  itemsize=2,
  remat=True,
)


def _longest(way, devices, memory=8 * GIB, kernel="blockwise"):
  return longest.longest(WORK, way, devices, memory=memory, kernel=kernel)


@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("way", ways.SHARED, ids=lambda w: w.name)
def test_it_fits_and_a_longer_one_does_not(way, devices):
  length = _longest(way, devices)
  assert length % devices == 0
  way = way if devices > 1 else ways.LOCAL

  shorter, longer = (
    Cost(longest.one_row(WORK, n), Layout(1, devices), way)
    .memory("blockwise")
    .total
    for n in (length, length + devices)
  )
  assert shorter <= 8 * GIB < longer


def test_local_does_not_grow_with_devices_and_a_ring_does():
  assert _longest(ways.LOCAL, 8) == _longest(ways.LOCAL, 1)
  ring = ways.Ring()
  assert _longest(ring, 1) == _longest(ways.LOCAL, 1)
  # The parameters, which do not shrink, are little of 8 GiB.
  assert _longest(ring, 16) / _longest(ring, 2) == pytest.approx(8, rel=0.01)


def test_dense_grows_with_the_root_of_the_memory():
  small, large = (
    _longest(ways.LOCAL, 1, memory=x * GIB, kernel="dense") for x in (16, 64)
  )
  assert large / small == pytest.approx(2, rel=0.02)


def test_nothing_where_it_cannot_be():
  # 3 heads, and parameters of 20 MB.
  assert _longest(ways.Ulysses(), 2) is None
  assert _longest(ways.LOCAL, 1, memory=10**7) is None
