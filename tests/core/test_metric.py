"""A mean of parts is the mean of the whole, padding aside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.core.metric import Metric

# float32 sums of a hundred numbers near 1, in another order: a few 1e-7.
TOL = dict(rtol=2e-6, atol=0)


def test_parts_of_unequal_size_add_to_the_whole():
  rng = np.random.default_rng(0)
  values = rng.normal(1, 1, 100).astype(np.float32)
  weights = rng.integers(0, 2, 100).astype(np.float32)
  total = Metric.zero()
  means = []
  for part in np.split(np.arange(100), [3, 60, 61]):
    mean = Metric.of(values[part], weights[part])
    means.append(float(mean))
    total += mean
  expected = np.average(values.astype(np.float64), weights=weights)
  np.testing.assert_allclose(float(total), expected, **TOL)
  np.testing.assert_allclose(total.compute(), expected, **TOL)
  # A mean of the parts' means is another number.
  assert abs(np.mean(means) - expected) > 1e-2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_padding_holds_does_not_matter(bad):
  weights = jnp.array([[1.0, 0.0], [1.0, 0.0]])

  def loss(values):
    return Metric.of(values, weights).compute()

  good = jnp.array([[2.0, 7.0], [4.0, 7.0]])
  padded = good.at[:, 1].set(bad)
  assert float(loss(padded)) == float(loss(good)) == 3.0
  # 0 * nan is nan in the gradient too: exactly 0 is wanted.
  np.testing.assert_array_equal(
    jax.grad(loss)(padded), [[0.5, 0.0], [0.5, 0.0]]
  )


def test_nothing_counted_is_zero():
  empty = Metric.of(jnp.array([np.nan, 3.0]), jnp.zeros(2))
  for mean in (Metric.zero(), empty, Metric.zero() + empty):
    assert float(mean) == 0.0
    assert float(mean.compute()) == 0.0
  gradient = jax.grad(lambda v: Metric.of(v, jnp.zeros(2)).compute())
  np.testing.assert_array_equal(gradient(jnp.array([1.0, 2.0])), [0.0, 0.0])
