"""The kernel's contract, against a textbook softmax and its autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.attention import dense, kernel


def _inputs(dtype, b=2, lq=5, lk=7, h=3, e=4):
  rng = np.random.default_rng(0)
  shapes = ((b, lq, h, e), (b, lk, h, e), (b, lk, h, e))
  return tuple(jnp.asarray(rng.normal(size=s), dtype) for s in shapes)


def _segments(lq=5, lk=7):
  # Query 4 of row 1 has no key: no other token is of segment 9.
  q = jnp.array([[1, 1, 2, 2, 0], [1, 2, 2, 2, 9]])[:, :lq]
  kv = jnp.array([[1, 1, 2, 2, 2, 0, 0], [1, 1, 1, 2, 2, 0, 0]])[:, :lk]
  return q, kv


def _textbook(q, k, v, q_segments=None, kv_segments=None, bias=None):
  logits = jnp.einsum("bqhe,bkhe->bqhk", q, k) / np.sqrt(q.shape[-1])
  if bias is not None:
    logits += jnp.moveaxis(jnp.broadcast_to(bias, (2, 3, 5, 7)), 1, 2)
  if q_segments is not None:
    mask = (q_segments[:, :, None] == kv_segments[:, None, :])[:, :, None]
    logits = jnp.where(mask, logits, -jnp.inf)
  lse = jax.nn.logsumexp(logits, axis=-1)
  weights = jnp.exp(logits - jnp.where(jnp.isfinite(lse), lse, 0)[..., None])
  return jnp.einsum("bqhk,bkhe->bqhe", weights, v), lse


@pytest.fixture(params=["together", "one by one"])
def heads(request, monkeypatch):
  """Both ways over the heads; the tests run on a CPU, so both are taken."""
  size = 0 if request.param == "one by one" else 2**60
  monkeypatch.setattr(dense, "CPU_CACHE_BYTES", size)


@pytest.mark.parametrize("packed", [False, True])
def test_values_equal_the_textbook(float64, heads, packed):
  q, k, v = _inputs(jnp.float64)
  segments = _segments() if packed else (None, None)
  out, lse = dense.Dense()(
    q, k, v, q_segments=segments[0], kv_segments=segments[1]
  )
  expected_out, expected_lse = _textbook(q, k, v, *segments)
  has_key = np.isfinite(expected_lse)
  assert has_key.all() != packed
  np.testing.assert_allclose(out, expected_out, rtol=0, atol=1e-13)
  np.testing.assert_allclose(
    lse[has_key], expected_lse[has_key], rtol=0, atol=1e-13
  )
  mutant = dense.Dense()(
    q, 0 * k, v, q_segments=segments[0], kv_segments=segments[1]
  )
  assert np.abs(mutant.out - expected_out).max() > 0.1


@pytest.mark.parametrize("packed", [False, True])
def test_gradients_of_out_and_lse_equal_autodiff(float64, heads, packed):
  q, k, v = _inputs(jnp.float64)
  segments = _segments() if packed else (None, None)
  rng = np.random.default_rng(1)
  a, b = rng.normal(size=q.shape), rng.normal(size=q.shape[:3])
  has_key = np.isfinite(_textbook(q, k, v, *segments)[1])

  def scalar(f):
    def g(q, k, v):
      out, lse = f(q, k, v)
      return (out * a).sum() + (jnp.where(has_key, lse, 0) * b).sum()

    return jax.grad(g, argnums=(0, 1, 2))

  def ours(q, k, v):
    return dense.Dense()(
      q, k, v, q_segments=segments[0], kv_segments=segments[1]
    )

  def textbook(q, k, v):
    # Queries without keys make autodiff of a softmax NaN; leave them out.
    out, lse = _textbook(q, k, v, segments[0] if packed else None, segments[1])
    return jnp.where(has_key[..., None], out, 0), lse

  if packed:  # the textbook's own NaN trap
    segments_finite = segments[0].at[1, 4].set(0)
    got = scalar(ours)(q, k, v)
    assert all(np.isfinite(g).all() for g in got)
    assert not got[0][1, 4].any()
    segments = (segments_finite, segments[1])
    has_key = np.ones_like(has_key)
  for mine, theirs in zip(scalar(ours)(q, k, v), scalar(textbook)(q, k, v)):
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12)
    assert np.abs(theirs).max() > 0.1


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_a_bias_and_its_gradient_equal_the_textbook(
  float64, heads, packed, rows
):
  q, k, v = _inputs(jnp.float64)
  rng = np.random.default_rng(2)
  bias = jnp.asarray(rng.normal(size=(rows, 3, 5, 7)))
  a, b = rng.normal(size=q.shape), rng.normal(size=q.shape[:3])
  segments = (None, None)
  if packed:
    # No query without a key: autodiff of the textbook would be NaN.
    segments = _segments()[0].at[1, 4].set(0), _segments()[1]

  def ours(q, k, v, bias):
    out, lse = dense.Dense()(
      q, k, v, q_segments=segments[0], kv_segments=segments[1], bias=bias
    )
    return (out * a).sum() + (lse * b).sum()

  def textbook(q, k, v, bias):
    out, lse = _textbook(q, k, v, *segments, bias)
    return (out * a).sum() + (lse * b).sum()

  (value, gradients), (expected, expected_gradients) = (
    jax.value_and_grad(f, argnums=(0, 1, 2, 3))(q, k, v, bias)
    for f in (ours, textbook)
  )
  np.testing.assert_allclose(value, expected, rtol=0, atol=1e-12)
  for mine, theirs in zip(gradients, expected_gradients, strict=True):
    assert mine.shape == theirs.shape
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12)
    assert np.abs(theirs).max() > 0.1
  # Other biases, of another head or none, are noticed.
  for mutant in (bias[:, ::-1], 0 * bias, bias[..., ::-1]):
    assert abs(ours(q, k, v, mutant) - expected) > 0.1


def test_query_without_a_key_is_zero_and_never_nan(heads):
  q, k, v = _inputs(jnp.float32)
  q_segments, kv_segments = _segments()
  out, lse = dense.Dense()(
    q, k, v, q_segments=q_segments, kv_segments=kv_segments
  )
  assert (out[1, 4] == 0).all()
  assert (lse[1, 4] == kernel.NO_KEY).all()
  assert (lse[0] > -100).all()


def test_padding_attends_to_padding_and_segments_to_themselves(heads):
  # One-hot values show who was attended to.
  segments = jnp.array([[1, 1, 2, 0]])
  q = jnp.zeros((1, 4, 1, 4))
  values = jnp.eye(4)[None, :, None]
  out, _ = dense.Dense()(
    q, q, values, q_segments=segments, kv_segments=segments
  )
  drawn = ["".join("#" if w > 0 else "." for w in row) for row in out[0, :, 0]]
  assert drawn == ["##..", "##..", "..#.", "...#"]


def test_bfloat16_accumulates_in_float32(heads):
  q, k, v = _inputs(jnp.bfloat16, lq=64, lk=512, e=64)
  out, lse = dense.Dense()(q, k, v)
  assert out.dtype == jnp.bfloat16
  assert lse.dtype == jnp.float32
  f32 = [x.astype(jnp.float32) for x in (q, k, v)]
  exact, _ = _textbook(*f32)
  # Averages of 512 values of order 1 are of order 0.1; rounding the scaled
  # query, the weights and the result to 2^-9 each leaves 5e-4. Sums carried
  # in bfloat16 would err by 2e-2.
  error = np.abs(out.astype(jnp.float32) - exact).max()
  assert error < 2e-3
