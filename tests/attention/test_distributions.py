"""Every distribution of every kernel equals the dense kernel on one device."""

import functools

import attention_cases as cases
import jax
import numpy as np
import pytest

from flexivit_jax.attention import (
  blockwise,
  dense,
  fused,
  local,
  query_sharded,
  ring,
  ulysses,
)
from flexivit_jax.attention.kernel import NO_KEY

QuerySharded = query_sharded.QuerySharded
KERNELS = {"dense": dense.Dense(), "blockwise": blockwise.Blockwise(3, 4)}
SHARED = {
  "query_sharded": QuerySharded(),
  "ring": ring.Ring(),
  "ulysses": ulysses.Ulysses(),
}


def _compare(kernel, distribution, packed, dtype, mesh, options=cases.QUICK):
  args = cases.inputs(dtype)
  segments = cases.segments() if packed else (None, None)
  attend = functools.partial(distribution, kernel)
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    f = cases.both_ways(attend, *segments, options)
    got = f(*cases.on_mesh(mesh, *args))
    q, k, *others = args
    mutant = f(*cases.on_mesh(mesh, q, 0 * k, *others))
  expected = cases.reference(args, *segments, with_lse=got[0].lse is not None)
  assert got[0].out.dtype == dtype
  assert cases.error(got, expected) < cases.TOLERANCES[dtype]
  # Keys that are zero: every key of a segment then weighs the same.
  assert cases.error(mutant, expected) > 0.1
  if packed:
    assert not np.asarray(got[0].out[0, 2], np.float32).any()
    if got[0].lse is not None:
      assert (got[0].lse[0, 2] == NO_KEY).all()


# Without segments there is less that could go wrong.
PACKED = [
  pytest.param(True, id="packed"),
  pytest.param(False, id="plain", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("distribution", SHARED.values(), ids=SHARED)
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_equals_dense_on_one_device(float64, kernel, distribution, packed):
  mesh = cases.mesh(2, 4)
  _compare(kernel, distribution, packed, "float64", mesh)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("kernel", "dtype"), [("dense", "bfloat16"), ("blockwise", "float32")]
)
@pytest.mark.parametrize(
  "distribution", [*SHARED.values(), local.Local()], ids=[*SHARED, "local"]
)
def test_equals_dense_on_one_device_in_other_types(kernel, distribution, dtype):
  # As users compile it. `local` has its rows over `data` alone.
  mesh = cases.mesh(2, 1 if distribution == local.Local() else 4)
  _compare(KERNELS[kernel], distribution, True, dtype, mesh, None)


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_that_do_not_divide_are_computed_by_all(float64, rows):
  # As when a model is initialised with one row; the context is set_mesh's.
  args = cases.inputs("float64", b=rows)
  segments = tuple(x[:1] for x in cases.segments())
  attend = functools.partial(QuerySharded(), dense.Dense())
  with jax.set_mesh(cases.mesh(2, 4)):
    got = cases.both_ways(attend, *segments, cases.QUICK)(*args)
  expected = cases.reference(args, *segments)
  assert cases.error(got, expected) < cases.TOLERANCES["float64"]


@pytest.mark.parametrize("distribution", SHARED.values(), ids=SHARED)
def test_with_one_device_for_a_row_it_is_the_kernel_itself(distribution):
  q, k, v, *_ = cases.inputs("float32")
  attend = functools.partial(distribution, dense.Dense())
  kernel = str(jax.make_jaxpr(dense.Dense())(q, k, v))
  assert str(jax.make_jaxpr(attend)(q, k, v)) == kernel
  with jax.set_mesh(cases.mesh(8, 1)):
    assert str(jax.make_jaxpr(attend)(q, k, v)) == kernel
  with jax.set_mesh(cases.mesh(2, 4)):
    assert "shard_map" in str(jax.make_jaxpr(attend)(q, k, v))


REFUSALS = {
  "local": (
    local.Local(),
    dict(length=64, num_heads=8),
    "8 devices of the mesh's axis seq share each: take query_sharded, ring or "
    "ulysses, or seq=1",
  ),
  "length": (
    QuerySharded(),
    dict(length=196, num_heads=3),
    "196 tokens of a row do not divide over the 8 devices of the mesh's axis "
    "seq: take seq=1 or 2 or 4 or 7 or 14, or 192 or 200 tokens",
  ),
  "short": (
    ring.Ring(),
    dict(length=5, num_heads=3),
    "take seq=1 or 5, or 8 tokens",
  ),
  "length for ulysses": (
    ulysses.Ulysses(),
    dict(length=196, num_heads=8),
    "or 192 or 200 tokens",
  ),
  "heads": (
    ulysses.Ulysses(),
    dict(length=64, num_heads=6),
    "6 heads do not divide over the 8 devices of the mesh's axis seq, as the "
    "distribution ulysses needs: take 1 or 2 or 3 or 6 devices, or the "
    "distribution query_sharded or ring",
  ),
  "ring without lse": (
    ring.Ring(),
    dict(length=64, num_heads=6, kernel=fused.Fused()),
    "which kernel fused does not give: take the kernel blockwise, or the "
    "distribution ulysses",
  ),
}


@pytest.mark.parametrize(
  ("distribution", "arguments", "text"), REFUSALS.values(), ids=REFUSALS
)
def test_refusals(distribution, arguments, text):
  arguments = dict(parts=8, kernel=dense.Dense()) | arguments
  with pytest.raises(ValueError, match=text):
    distribution.check(**arguments)
  distribution.check(**arguments | {"parts": 1})
