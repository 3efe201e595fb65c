"""Which way is recommended, and the line that says why."""

import dataclasses

from flexivit_jax.attention.local import Local
from flexivit_jax.attention.query_sharded import QuerySharded
from flexivit_jax.attention.ring import Ring
from flexivit_jax.attention.ulysses import Ulysses
from flexivit_jax.nn.encoder import Size
from flexivit_jax.run.plan import table
from flexivit_jax.run.plan.layout import Layout, layouts
from flexivit_jax.run.plan.step_cost import Cost, Rates
from flexivit_jax.run.plan.workload import Weights, Workload

MIB = 2**20
WORK = Workload(
  rows=8,
  length=2048,
  size=Size(96, 2, 256, 6),
  weights=Weights(100_000, 400_000, 800_000),
  outside=0,
  patch_numbers=3,
)


def _choose(devices, memory=None, kernel="blockwise", **changes):
  work = dataclasses.replace(WORK, **changes)
  shared = (QuerySharded(), Ring(), Ulysses())
  costs = [
    Cost(work, layout, way)
    for layout in layouts(devices)
    for way in ((Local(),) if layout.seq == 1 else shared)
  ]
  return table.choose(costs, Rates(), kernel=kernel, memory=memory)


def test_rows_for_every_device_stay_whole():
  found = _choose(4)
  assert (found.cost.layout, found.cost.distribution) == (
    Layout(4, 1),
    Local(),
  )
  assert found.reason == (
    "8 rows >= 4 devices: data parallelism sends less: 585.9 KiB a step "
    "against 12.6 MiB"
  )
  assert _choose(1).reason == "one device"


def test_fewer_rows_than_devices_share_them_with_as_few_as_possible():
  found = _choose(8, rows=4)
  assert found.cost.layout == Layout(4, 2)
  assert found.reason == (
    "4 rows for 8 devices: 3.7 MiB a step against 3.7 MiB as ulysses"
  )


def test_a_way_that_does_not_divide_is_left_out():
  found = _choose(8, rows=1, size=Size(64, 2, 256, 2))
  assert found.cost.layout == Layout(1, 8)
  assert found.cost.name != "ulysses"


def test_what_does_not_fit_is_not_taken():
  # Whole rows have whole logits: the activations of a batch are as many
  # wherever they lie.
  needs = Cost(WORK, Layout(8, 1), Local()).memory("dense").total
  found = _choose(8, memory=0.9 * needs, kernel="dense")
  assert found.cost.layout.seq > 1
  assert found.cost.memory("dense").total <= 0.9 * needs
  assert found.reason.startswith("local on data=8,seq=1 does not fit: ")


def test_nothing_fits():
  found = _choose(8, memory=5 * MIB, kernel="dense")
  assert found.cost is None
  for text in ("76.1 MiB of 5.0 MiB", "model.remat=true (48.1 MiB)"):
    assert text in found.reason
  assert "remat" not in _choose(8, memory=5 * MIB, remat=True).reason


def test_nothing_works():
  found = _choose(5, rows=4)
  assert found.cost is None
  assert "4 rows are fewer than 5 devices of data" in found.reason


def test_settings_are_overrides_of_a_config():
  cost = Cost(WORK, Layout(2, 4), QuerySharded(keep=False))
  assert table.settings(cost) == (
    "mesh.data=2",
    "mesh.seq=4",
    "model.distribution=query_sharded",
    "model.distribution.keep=false",
  )
