"""Partial results over blocks of keys, merged."""

import jax
import numpy as np
from attention_cases import QUICK, inputs, segments

from flexivit_jax.attention import dense, kernel
from flexivit_jax.attention.kernel import NO_KEY, Partial


def _quick(f):
  return jax.jit(f, compiler_options=QUICK)


@_quick
def _halves(q, k, v, q_segments, kv_segments):
  return [
    dense.Dense().forward(
      q, k[:, keys], v[:, keys], q_segments, kv_segments[:, keys]
    )
    for keys in (slice(0, 7), slice(7, None))
  ]


def test_two_halves_merge_to_the_whole(float64):
  q, k, v, *_ = inputs("float64")
  parts = _halves(q, k, v, *segments())
  whole = _quick(dense.Dense().forward)(q, k, v, *segments())
  for order in (parts, parts[::-1]):
    merged = _quick(kernel.merge)(*order)
    # Two sums of 20 numbers of order 1.
    np.testing.assert_allclose(merged.out, whole.out, rtol=0, atol=1e-14)
    np.testing.assert_allclose(merged.lse, whole.lse, rtol=0, atol=1e-14)
  mean = (parts[0].out + parts[1].out) / 2
  assert np.abs(mean - whole.out).max() > 0.1


def test_no_key_in_either_half_stays_no_key():
  q, k, v, *_ = inputs("float32")
  parts = _halves(q, k, v, *segments())
  assert all((x.lse[0, 2] == NO_KEY).all() for x in parts)
  merged = _quick(kernel.merge)(*parts)
  assert (merged.out[0, 2] == 0).all()
  assert (merged.lse[0, 2] == NO_KEY).all()
  assert np.isfinite(merged.out).all()


def test_the_gradient_of_a_whole_is_the_sum_of_its_blocks(float64):
  q, k, v, d_out, d_lse = inputs("float64")
  q_segments, kv_segments = segments()
  forward, backward = map(
    _quick, (dense.Dense().forward, dense.Dense().backward)
  )
  total = forward(q, k, v, q_segments, kv_segments)
  d_total = Partial(d_out, d_lse)
  whole = backward(q, k, v, total, d_total, q_segments, kv_segments)
  blocks = [
    backward(
      q,
      k[:, keys],
      v[:, keys],
      total,
      d_total,
      q_segments,
      kv_segments[:, keys],
    )
    for keys in (slice(0, 7), slice(7, None))
  ]
  (a, *first), (b, *second) = blocks
  np.testing.assert_allclose(a + b, whole[0], rtol=0, atol=1e-13)
  assert np.abs(a - whole[0]).max() > 0.1
  for x, y, both in zip(first, second, whole[1:], strict=True):
    np.testing.assert_allclose(
      np.concatenate([x, y], axis=1), both, rtol=0, atol=1e-13
    )


def test_a_layer_that_keeps_what_it_attended_attends_once():
  q, k, v, *_ = inputs("float32")

  def exponentials(policy):
    def loss(q):
      return (dense.Dense()(q, k, v).out ** 2).sum()

    kept = jax.checkpoint(loss, policy=policy)
    return str(jax.make_jaxpr(jax.grad(kept))(q)).count(" exp ")

  keep = jax.checkpoint_policies.save_only_these_names(kernel.ATTENDED)
  # Forward, once more, and backward.
  assert exponentials(None) == 3
  assert exponentials(keep) == 2
