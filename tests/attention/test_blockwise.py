"""The blockwise kernel equals the dense one, in memory that grows with l."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import (
  QUICK,
  TOLERANCES,
  both_ways,
  error,
  inputs,
  reference,
  segments,
)

from flexivit_jax.attention import dense
from flexivit_jax.attention.blockwise import Blocks, Blockwise
from flexivit_jax.attention.kernel import NO_KEY

# (lq, lk, kernel): blocks that divide, that overlap, of one token, and longer
# than the sequence.
LENGTHS = {
  "dividing": (20, 20, Blockwise(5, 10)),
  "overlapping": (20, 20, Blockwise(16, 3)),
  "other queries": (7, 30, Blockwise(3, 8)),
  "one token": (4, 5, Blockwise(1, 1)),
  "one block": (7, 5, Blockwise()),
}


def _compare(lengths, packed, dtype, options=QUICK):
  lq, lk, kernel = LENGTHS[lengths]
  args = inputs(dtype, lq=lq, lk=lk)
  given = segments(lq=lq, lk=lk) if packed else (None, None)
  f = both_ways(kernel, *given, options)
  got, expected = f(*args), reference(args, *given)
  assert got[0].out.dtype == dtype
  assert error(got, expected) < TOLERANCES[dtype]
  q, k, *others = args
  assert error(f(q, 0 * k, *others), expected) > 0.1
  if packed:
    total, (d_q, _, _) = got
    assert not np.asarray(total.out[0, 2], np.float32).any()
    assert (total.lse[0, 2] == NO_KEY).all()
    assert not np.asarray(d_q[0, 2], np.float32).any()


@pytest.mark.parametrize(
  ("lengths", "packed"),
  [
    ("dividing", False),
    ("overlapping", False),
    ("overlapping", True),
    ("other queries", True),
    pytest.param("one block", True, marks=pytest.mark.slow),
    pytest.param("one token", True, marks=pytest.mark.slow),
  ],
)
def test_equals_the_dense_kernel(float64, lengths, packed):
  _compare(lengths, packed, "float64")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_equals_the_dense_kernel_in_other_types(lengths, dtype):
  _compare(lengths, True, dtype, None)


def test_rows_may_share_their_segments_in_any_order(float64):
  args, order = inputs("float64"), np.random.default_rng(0).permutation(20)
  given = tuple(x[:1, order] for x in segments())
  f = both_ways(Blockwise(16, 3), *given, QUICK)
  assert error(f(*args), reference(args, *given)) < TOLERANCES["float64"]


def test_blocks_without_a_segment_in_common_are_skipped():
  row = jnp.asarray([[1, 1, 2, 2, 2, 3, 0, 0]])
  # What is skipped is not even read: 0 times NaN would show.
  q, k, v, d_out, d_lse = inputs("float32", b=1, lq=8, lk=8)
  v = v.at[:, 6:].set(jnp.nan)
  total, gradients = both_ways(Blockwise(2, 2), row, row, QUICK)(
    q, k, v, d_out, d_lse
  )
  for x in (total.out, *gradients):
    assert np.isfinite(x[:, :6]).all()
  assert np.isnan(total.out[:, 6:]).all()


@pytest.mark.parametrize("at_most", [1, 3, 8, 512])
@pytest.mark.parametrize("length", [1, 7, 20])
def test_blocks_cover_a_length_once(length, at_most):
  blocks = Blocks.of(length, at_most)
  assert blocks.size <= min(at_most, length)
  seen = []
  for i in range(blocks.count):
    start = min(i * blocks.size, length - blocks.size)
    assert int(blocks.start(i)) == start
    fresh = blocks.fresh(i)
    places = np.arange(start, start + blocks.size)
    seen += list(places if fresh is None else places[np.asarray(fresh)])
  assert seen == list(range(length))


def test_accumulates_over_many_blocks_in_float32():
  q, k, v, *_ = inputs("bfloat16", lq=8, lk=2048, h=1, e=16)
  total = jax.jit(Blockwise(8, 8), compiler_options=QUICK)(q, k, v)
  assert total.out.dtype == jnp.bfloat16
  assert total.lse.dtype == jnp.float32
  f32 = [x.astype(jnp.float32) for x in (q, k, v)]
  exact = jax.jit(dense.Dense(), compiler_options=QUICK)(*f32)
  # Averages of 2048 values of order 1 are of order 0.05; rounding queries,
  # weights and the result leaves 2e-4. 256 blocks added in bfloat16 would
  # err by 1e-2.
  assert np.abs(total.out.astype(jnp.float32) - exact.out).max() < 1e-3


def test_refusals():
  with pytest.raises(ValueError, match="block_k must be positive, not 0"):
    Blockwise(block_k=0)
  q, k, v, *_ = inputs("float32")
  with pytest.raises(ValueError, match="q_segments and kv_segments, or neith"):
    Blockwise()(q, k, v, q_segments=segments()[0])


def _temporary_bytes(kernel, length):
  shape = jax.ShapeDtypeStruct((1, length, 4, 32), jnp.float32)

  def loss(q, k, v):
    return (kernel(q, k, v).out ** 2).sum()

  gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
  compiled = gradient.lower(shape, shape, shape).compile()
  return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_grows_with_the_length(monkeypatch):
  # All heads at once, as on an accelerator.
  monkeypatch.setattr(dense, "CPU_CACHE_BYTES", 2**60)
  growth = {
    kernel: _temporary_bytes(kernel, 16384) / _temporary_bytes(kernel, 1024)
    for kernel in (Blockwise(), dense.Dense())
  }
  # 16 times the tokens: O(l) with a constant term, and O(l^2).
  assert growth[Blockwise()] < 4
  assert growth[dense.Dense()] > 200
