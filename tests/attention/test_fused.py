"""The library's attention: the dense kernel's numbers, and cuDNN's call."""

import functools

import attention_cases as cases
import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo  # its check, below

from flexivit_jax.attention import local, query_sharded, ulysses
from flexivit_jax.attention.fused import Fused

SHARED = {
  "local": (local.Local(), (2, 1)),
  "query_sharded": (query_sharded.QuerySharded(), (2, 4)),
  "ulysses": (ulysses.Ulysses(), (2, 4)),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("name", SHARED)
def test_equals_dense_in_values_and_gradients(name, packed, dtype):
  distribution, shape = SHARED[name]
  mesh = cases.mesh(*shape)
  length = 40
  q, k, *others = cases.inputs(dtype, lq=length, lk=length, e=16)
  given = cases.segments(lq=length, lk=length)[1] if packed else None
  attend = functools.partial(distribution, Fused())
  with jax.set_mesh(mesh):
    f = cases.both_ways(attend, given, given, cases.QUICK)
    got = f(*cases.on_mesh(mesh, q, k, *others))
    wrong = f(*cases.on_mesh(mesh, q, 0 * k, *others))
  expected = cases.reference((q, k, *others), given, given, with_lse=False)
  assert got[0].lse is None
  assert got[0].out.dtype == dtype
  assert cases.error(got, expected) < cases.TOLERANCES[dtype]
  assert cases.error(wrong, expected) > 0.1


@pytest.mark.parametrize(
  ("dtype", "width", "length", "packed", "called"),
  [
    ("bfloat16", 64, 32, True, True),
    ("bfloat16", 128, 34, False, True),
    ("float32", 64, 32, True, False),
    ("bfloat16", 60, 32, False, False),
    ("bfloat16", 256, 32, False, False),
    ("bfloat16", 64, 33, True, False),
  ],
)
def test_the_program_for_cuda_calls_cudnn_where_it_can(
  dtype, width, length, packed, called, monkeypatch
):
  # Lowering asks for the installed cuDNN's version; none is installed here.
  monkeypatch.setattr(
    fused_attention_stablehlo, "check_cudnn_version", lambda: 91000
  )
  segments = jnp.ones((1, length), jnp.int32) if packed else None

  def loss(q):
    out = Fused()(q, q, q, q_segments=segments, kv_segments=segments).out
    return out.astype(jnp.float32).sum()

  x = jax.ShapeDtypeStruct((1, length, 2, width), dtype)
  traced = jax.jit(jax.grad(loss)).trace(x)
  text = traced.lower(lowering_platforms=("cuda",)).as_text()
  assert ("__cudnn$fmha" in text) == called
  assert (
    "__cudnn$fmha" not in traced.lower(lowering_platforms=("cpu",)).as_text()
  )
