"""Inputs, the reference and the comparison that tests of attention share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from flexivit_jax.attention import dense, local
from flexivit_jax.attention.kernel import NO_KEY, Partial

# Compiling takes most of a test's time; LLVM's own optimisations change none
# of XLA's operations.
QUICK = {"xla_backend_optimization_level": 0}

# Largest error over the largest value, of outputs and gradients.
TOLERANCES = {
  # Sums of some 20 products, in another order: a few 2^-53 each.
  "float64": 1e-12,
  # The same, 2^-24 each: worst seen 5e-7.
  "float32": 1e-5,
  # Against float64 of the same rounded inputs. Scaled queries, weights and
  # their gradients are rounded to 2^-9 before products, results after: four
  # roundings. Worst seen 6e-3; sums in bfloat16 would err by several 2^-9
  # times the number of terms.
  "bfloat16": 1e-2,
}


def mesh(data, seq):
  devices = jax.devices()[: data * seq]
  return jax.make_mesh(
    (data, seq),
    ("data", "seq"),
    axis_types=(AxisType.Auto,) * 2,
    devices=devices,
  )


def inputs(dtype, b=2, lq=20, lk=20, h=4, e=3):
  """q, k, v and cotangents of out and lse, normal, rounded to `dtype`."""
  rng = np.random.default_rng(0)
  heads = [rng.normal(size=(b, l, h, e)) for l in (lq, lk, lk, lq)]
  lse = rng.normal(size=(b, lq, h))
  return (
    *(jnp.asarray(x, dtype) for x in heads),
    jnp.asarray(lse, jnp.promote_types(dtype, jnp.float32)),
  )


def segments(b=2, lq=20, lk=20):
  """Segments in order and padding at the end; query 2 of row 0 has no key."""
  rng = np.random.default_rng(1)
  q = np.sort(rng.integers(1, 4, (b, lq)))
  kv = np.sort(rng.integers(1, 4, (b, lk)))
  q[:, -2:] = kv[:, -3:] = 0
  if lq == lk:
    kv = q.copy()
  q[0, 2] = 9
  return jnp.asarray(q, jnp.int32), jnp.asarray(kv, jnp.int32)


def both_ways(attend, q_segments=None, kv_segments=None, compiler_options=None):
  """Compiles f(q, k, v, d_out, d_lse) -> (Partial, (d_q, d_k, d_v)).

  `attend` is a kernel, or a distribution of one. Without an lse, d_lse is
  left out.
  """

  def f(q, k, v, d_out, d_lse):
    # Closed over, so that both may be one array.
    result, gradient = jax.vjp(
      functools.partial(attend, q_segments=q_segments, kv_segments=kv_segments),
      q,
      k,
      v,
    )
    return result, gradient(
      Partial(d_out, None if result.lse is None else d_lse)
    )

  return jax.jit(f, compiler_options=compiler_options)


def reference(args, q_segments=None, kv_segments=None, with_lse=True):
  """`Dense` on one device in float64, of the same numbers."""
  q, k, v, d_out, d_lse = (np.asarray(x, np.float64) for x in args)
  if not with_lse:
    d_lse = 0 * d_lse
  with jax.enable_x64(True):
    attend = functools.partial(local.Local(), dense.Dense())
    result = both_ways(attend, q_segments, kv_segments, QUICK)(
      q, k, v, d_out, d_lse
    )
    return jax.tree.map(np.asarray, result)


def error(got, expected) -> float:
  """Largest difference of outputs and gradients, over the largest value."""
  (total, gradients), (expected_total, expected_gradients) = got, expected
  pairs = [(total.out, expected_total.out)]
  pairs += zip(gradients, expected_gradients, strict=True)
  if total.lse is not None:
    # Where there is no key, both are -1e30.
    pairs.append(
      [
        np.where(np.asarray(x) < NO_KEY / 2, 99, x)
        for x in (total.lse, expected_total.lse)
      ]
    )
  errors = []
  for x, y in pairs:
    x, y = np.asarray(x, np.float64), np.asarray(y)
    assert x.shape == y.shape
    errors.append(np.abs(x - y).max() / np.abs(y).max())
  # max() of a list would lose a NaN.
  return np.max(errors)


def on_mesh(mesh, *arrays):
  """Rows over `data` and tokens over `seq`."""
  sharding = NamedSharding(mesh, PartitionSpec("data", "seq"))
  return jax.device_put(arrays, sharding)
