"""Partial results over blocks of keys, merged."""

import jax
import numpy as np
from attention_cases import QUICK, inputs, segments

from flexivit_jax.attention import dense, kernel


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
