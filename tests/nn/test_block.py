import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from benchmarks import collectives
from flexivit_jax.nn import attention as attention_lib
from flexivit_jax.nn import block as block_lib
from flexivit_jax.nn import encoder as encoder_lib
from flexivit_jax.nn import linear, norms
from flexivit_jax.nn import mlp as mlp_lib
from flexivit_jax.nn.mixers import Context


def _normal(*shape, dtype=jnp.float32, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def _textbook_norm(x, scale, bias, eps):
  scale, bias = (
    p.reshape((1,) * (x.ndim - 1) + p.shape) for p in (scale, bias)
  )
  mean = x.mean(axis=-1, keepdims=True)
  variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
  return (x - mean) / jnp.sqrt(variance + eps) * scale + bias


def test_layer_norm_values_and_gradients(float64):
  x, scale, bias, ct = (
    _normal(*s, dtype=jnp.float64, seed=i)
    for i, s in enumerate(((2, 3, 8), (8,), (8,), (2, 3, 8)))
  )
  # Rows of order eps**0.5, so that a wrong eps cannot hide.
  x = x.at[0].multiply(1e-3)

  def loss(norm, eps):
    def scalar(x, scale, bias):
      return (norm(x, scale, bias, eps) * ct).sum()

    return jax.value_and_grad(scalar, argnums=(0, 1, 2))(x, scale, bias)

  value, gradients = loss(norms.layer_norm, 1e-6)
  expected, expected_gradients = loss(_textbook_norm, 1e-6)
  np.testing.assert_allclose(value, expected, rtol=1e-12)
  for a, b in zip(gradients, expected_gradients, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
  mutant, _ = loss(norms.layer_norm, 1e-5)
  assert abs(mutant - expected) > 1e-3


def test_layer_norm_keeps_float32_statistics_for_bfloat16():
  # A large mean: statistics in bfloat16 would lose the variation.
  x = (_normal(4, 256) + 100).astype(jnp.bfloat16)
  ones, zeros = jnp.ones(256), jnp.zeros(256)
  got = norms.layer_norm(x, ones, zeros, 1e-6)
  exact = _textbook_norm(x.astype(jnp.float32), ones, zeros, 1e-6)
  assert got.dtype == jnp.bfloat16
  # One rounding of values up to 3: 2^-9 of them.
  assert np.abs(got.astype(jnp.float32) - exact).max() < 1e-2


def test_rms_norm_is_its_definition(float64):
  x, scale = (_normal(*s, dtype=jnp.float64) for s in ((2, 3, 8), (8,)))
  x = 1e-3 * x  # so that a wrong eps cannot hide
  mean_square = (x**2).mean(axis=-1, keepdims=True)
  expected = x / jnp.sqrt(mean_square + 1e-6) * scale.reshape(1, 1, 8)
  got = norms.rms_norm(x, scale, 1e-6)
  np.testing.assert_allclose(got, expected, rtol=1e-12)
  half = norms.rms_norm(x.astype(jnp.bfloat16), scale, 1e-6)
  assert half.dtype == jnp.bfloat16


def test_a_gated_mlp_multiplies_by_the_gelu_of_its_gate(float64):
  x = _normal(2, 3, 4, dtype=jnp.float64)
  mlp = mlp_lib.Mlp(6, jnp.float64, gated=True, use_bias=False)
  params = mlp.init(jax.random.key(0), x, train=False)["params"]
  assert jax.tree.map(jnp.shape, params) == {
    "Dense_0": {"kernel": (4, 6)},
    "Dense_gate": {"kernel": (4, 6)},
    "Dense_1": {"kernel": (6, 4)},
  }
  up, gate, down = (
    params[name]["kernel"] for name in ("Dense_0", "Dense_gate", "Dense_1")
  )
  expected = (jax.nn.gelu(x @ gate) * (x @ up)) @ down
  got = mlp.apply({"params": params}, x, train=False)
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
  swapped = (jax.nn.gelu(x @ up) * (x @ gate)) @ down
  assert np.abs(swapped - expected).max() > 1e-2


def test_the_scale_of_attention(float64):
  # 16 of 4 wide heads: None is 1/2.
  x = _normal(1, 5, 64, dtype=jnp.float64)
  attend = functools.partial(attention_lib.Attention, 16, jnp.float64, 1e-6)
  params = attend().init(jax.random.key(0), x, x)
  half, own, one = (
    attend(scale=scale).apply(params, x, x) for scale in (0.5, None, 1.0)
  )
  np.testing.assert_allclose(half, own, rtol=0, atol=1e-13)
  # The queries twice as large.
  query = params["params"]["query"]
  doubled = {
    "params": params["params"] | {"query": jax.tree.map(lambda q: 2 * q, query)}
  }
  np.testing.assert_allclose(
    one, attend().apply(doubled, x, x), rtol=0, atol=1e-13
  )
  assert np.abs(one - own).max() > 1e-2


@pytest.mark.parametrize("contract", [1, 2])
def test_linear_contracts_trailing_axes(float64, contract):
  x, kernel, bias = (
    _normal(*s, dtype=jnp.float64) for s in ((2, 5, 3, 4), (3, 4, 6, 7), (6, 7))
  )
  if contract == 1:
    kernel = kernel[0]
  got = linear.linear(x, kernel, bias, jnp.float64, contract=contract)
  dims = "blhi,hijk->bljk" if contract == 2 else "blhi,ijk->blhjk"
  expected = jnp.einsum(dims, x, kernel)
  expected += jnp.broadcast_to(bias, expected.shape)
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)


def _block(**kwargs):
  return functools.partial(
    block_lib.EncoderBlock,
    num_heads=2,
    mlp_dim=16,
    dtype=jnp.dtype("float32"),
    eps=1e-6,
    **kwargs,
  )


def _encoder(block, **kwargs):
  return encoder_lib.Encoder(block, depth=3, eps=1e-6, **kwargs)


def test_scanned_encoder_equals_the_loop():
  x = _normal(2, 5, 8)
  loop, scan = _encoder(_block()), _encoder(_block(), scan=True)
  params = loop.init(jax.random.key(0), x, None, train=False)["params"]
  names = [f"encoderblock_{i}" for i in range(3)]
  stacked = {
    "encoder_norm": params["encoder_norm"],
    "encoderblock": jax.tree.map(
      lambda *leaves: jnp.stack(leaves), *(params[n] for n in names)
    ),
  }
  expected = loop.apply({"params": params}, x, None, train=False)
  got = scan.apply({"params": stacked}, x, None, train=False)
  # The same operations on the same numbers, fused differently.
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
  fresh = scan.init(jax.random.key(0), x, None, train=False)["params"]
  assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, stacked)


def test_stochastic_depth_keeps_the_mean_and_drops_whole_rows():
  x = _normal(512, 3, 8)
  block = _block()(name=None)
  params = block.init(jax.random.key(0), x, None, None, False)
  branchless = x

  def run(rate, seed=0):
    return block.apply(
      params, x, None, jnp.float32(rate), True,
      rngs={"dropout": jax.random.key(seed)},
    )  # fmt: skip

  full = block.apply(params, x, None, None, False)
  np.testing.assert_array_equal(run(0.0), full)
  half = run(0.5)
  untouched = (half == branchless).all(axis=(1, 2))
  # Both branches drop with 1/4: binomial, 5 standard deviations of 0.019.
  assert untouched.mean() == pytest.approx(0.25, abs=0.1)
  kept = np.abs(half - branchless).max(axis=(1, 2)) > 0
  assert (kept == ~untouched).all()


def test_stochastic_depth_draws_for_each_image_of_a_row():
  """Not for the row: one draw would leave out all of its images."""
  x = _normal(256, 6, 8)
  segments = jnp.array([[1, 1, 2, 2, 2, 0]])
  block = _block()(name=None)
  context = Context(segments)
  params = block.init(jax.random.key(0), x, context, None, False)
  moved = block.apply(
    params, x, context, jnp.float32(0.5), True,
    rngs={"dropout": jax.random.key(1)},
  )  # fmt: skip
  untouched = np.array((moved == x).all(axis=-1))
  first, second = untouched[:, :2], untouched[:, 2:5]
  for own in (first, second):
    assert (own.all(axis=1) == own.any(axis=1)).all()
    # As for whole rows.
    assert own[:, 0].mean() == pytest.approx(0.25, abs=0.14)
  together = (first[:, 0] & second[:, 0]).mean()
  # Drawn apart: 1/16 rather than 1/4; 5 standard deviations of 0.015.
  assert together == pytest.approx(1 / 16, abs=0.08)


@pytest.mark.parametrize("parts", [1, 4])
def test_a_linear_map_sends_nothing_where_devices_share_tokens(parts):
  mesh = jax.make_mesh(
    (1, parts),
    ("data", "seq"),
    axis_types=(AxisType.Auto,) * 2,
    devices=jax.devices()[:parts],
  )
  tokens = NamedSharding(mesh, PartitionSpec("data", "seq"))
  x = jax.ShapeDtypeStruct((2, 8, 4), jnp.float32, sharding=tokens)
  kernel, bias = jnp.ones((4, 2, 3)), jnp.ones((2, 3))

  def apply(x):
    return linear.linear(x, kernel, bias, jnp.float32)

  with jax.set_mesh(mesh):
    compiled = jax.jit(apply, out_shardings=tokens).lower(x).compile()
  # Rows and tokens merged into one axis would be gathered.
  assert collectives.of_compiled(compiled.as_text()).total.count == 0
