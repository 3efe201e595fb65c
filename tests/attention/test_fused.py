"""The library's GPU kernel, interpreted: the dense kernel's numbers."""

import functools

import attention_cases as cases
import jax
import pytest

from flexivit_jax.attention import local, ulysses
from flexivit_jax.attention.fused import Triton

KERNEL = Triton(block_q=16, block_k=32, block_backward=16, interpret=True)


def _compare(distribution, packed, dtype, mesh, length, e, options=None):
  args = cases.inputs(dtype, lq=length, lk=length, e=e)
  given = None
  if packed:
    # Every token attends to itself: one array of segments.
    given = cases.segments(lq=length, lk=length)[1]
  attend = functools.partial(distribution, KERNEL)
  with jax.set_mesh(mesh):
    f = cases.both_ways(attend, given, given, options)
    got = f(*cases.on_mesh(mesh, *args))
  expected = cases.reference(args, given, given, with_lse=False)
  assert got[0].lse is None
  assert got[0].out.dtype == dtype
  assert cases.error(got, expected) < cases.TOLERANCES[dtype]
  return f, args, expected


def test_equals_dense_in_packed_rows_of_any_length():
  mesh = cases.mesh(1, 1)
  f, (q, k, *others), expected = _compare(
    local.Local(), True, "float32", mesh, 40, 16, cases.QUICK
  )
  assert cases.error(f(q, 0 * k, *others), expected) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("length", [40, 64])
@pytest.mark.parametrize("distribution", [local.Local(), ulysses.Ulysses()])
def test_equals_dense_over_devices(distribution, length, packed, dtype):
  # Heads of 24 are padded by the kernel.
  shared = distribution == ulysses.Ulysses()
  mesh = cases.mesh(2, 4 if shared else 1)
  _compare(distribution, packed, dtype, mesh, length, 24)


def test_rows_over_devices_stay_there():
  mesh = cases.mesh(2, 1)
  args = cases.inputs("float32", e=16)[:3]
  attend = functools.partial(local.Local(), KERNEL)
  with jax.set_mesh(mesh):
    assert "shard_map" in str(jax.make_jaxpr(attend)(*args))
  with jax.set_mesh(cases.mesh(1, 1)):
    assert "shard_map" not in str(jax.make_jaxpr(attend)(*args))


CHECKS = {
  ("cpu", 64, "float32"): "needs an NVIDIA GPU, but runs on cpu",
  ("tpu", 64, "float32"): "needs an NVIDIA GPU, but runs on tpu",
  ("gpu", 64, "float64"): "takes float32, bfloat16 and float16, not float64",
  ("gpu", 8, "bfloat16"): "takes heads of 16 to 256, not 8",
  ("gpu", 512, "bfloat16"): "takes heads of 16 to 256, not 512",
}


@pytest.mark.parametrize(("arguments", "problem"), CHECKS.items(), ids=str)
def test_check_says_what_it_lacks(arguments, problem):
  with pytest.raises(ValueError) as refused:
    Triton().check(*arguments)
  assert str(refused.value) == (
    f"kernel triton {problem}: take the kernel blockwise"
  )


def test_check_passes_what_it_takes():
  Triton().check("gpu", 64, "bfloat16")
  Triton().check("cuda", 64, "float16")
  Triton(interpret=True).check("cpu", 16, "float32")


def test_other_queries_are_refused():
  message = (
    "kernel triton attends among one set of tokens, with one array of "
    "segments: take the kernel blockwise for others"
  )
  q, k, v, *_ = cases.inputs("float32", lq=5)
  with pytest.raises(ValueError) as refused:
    KERNEL(q, k, v)
  assert str(refused.value) == message
  _, kv_segments = cases.segments()
  with pytest.raises(ValueError) as refused:
    KERNEL(k, k, v, q_segments=kv_segments + 0, kv_segments=kv_segments)
  assert str(refused.value) == message


@pytest.mark.parametrize("size", [0, 8, 48])
def test_blocks_are_powers_of_two(size):
  with pytest.raises(ValueError) as refused:
    Triton(block_k=size)
  assert str(refused.value) == f"block_k is a power of two from 16, not {size}"
