"""What each distribution sends is what its formula says."""

import functools

import jax
import jax.numpy as jnp
import pytest
from attention_cases import QUICK, mesh, on_mesh

from benchmarks import collectives
from benchmarks.collectives import Collectives, Sent
from flexivit_jax.attention import (
  dense,
  distribution,
  local,
  query_sharded,
  ring,
  ulysses,
)
from flexivit_jax.attention.blockwise import Blockwise
from flexivit_jax.devices import axes

LAYERS, P, B, L, H, E = 3, 8, 2, 64, 8, 4
A = 4 * B * L * H * E  # bytes of one activation in float32
KEEP = jax.checkpoint_policies.save_only_these_names(axes.GATHERED)

# The formulas of the docstrings: calls and bytes of one layer, forward and
# backward.
SHARE = (P - 1) / P
FORWARD = {
  "query_sharded": Collectives(all_gather=Sent(1, 2 * A * SHARE)),
  "ring": Collectives(collective_permute=Sent(P - 1, 2 * A * SHARE)),
  "ulysses": Collectives(all_to_all=Sent(2, 4 * A * SHARE / P)),
}
BACKWARD = {
  "query_sharded": Collectives(reduce_scatter=Sent(1, 2 * A * SHARE)),
  "ring": Collectives(
    collective_permute=Sent(2 * P - 1, 2 * A * SHARE + 2 * A)
  ),
  "ulysses": Collectives(all_to_all=Sent(2, 4 * A * SHARE / P)),
}
# What a layer that keeps nothing sends again. The output of ulysses is not
# needed twice.
AGAIN = FORWARD | {
  "ulysses": Collectives(all_to_all=Sent(1, 3 * A * SHARE / P))
}

ATTEND = {
  "query_sharded": query_sharded.QuerySharded(),
  "ring": ring.Ring(),
  "ulysses": ulysses.Ulysses(),
}


def _layer(name, kernel, segments, x, w):
  given = dict(q_segments=segments, kv_segments=segments)
  heads = x.reshape(B, -1, H, E)
  # No projections: the compiler's sums of weights' gradients stay out.
  del w
  total = ATTEND[name](kernel, heads, heads, heads, **given)
  return x + total.out.reshape(x.shape), None


def _gradient(name, remat, segments=None, kernel=dense.Dense()):  # noqa: B008
  """Of a scan over layers; a loss that needs no communication of its own."""

  def gradient(x, w, d_x):
    layer = functools.partial(_layer, name, kernel, segments)
    if remat == "all again":
      layer = jax.checkpoint(layer)
    elif remat == "gathered kept":
      layer = jax.checkpoint(layer, policy=KEEP)
    _, back = jax.vjp(lambda x, w: jax.lax.scan(layer, x, w)[0], x, w)
    return back(d_x)

  return gradient


def _expected(name, remat):
  layer = FORWARD[name] + BACKWARD[name]
  return (layer + AGAIN[name] if remat == "all again" else layer) * LAYERS


def _arguments(mesh_):
  x = jnp.ones((B, L, H * E))
  w = jnp.ones((LAYERS, H * E, 2 * H * E))
  x, d_x = on_mesh(mesh_, x, x)
  return x, w, d_x


@pytest.mark.parametrize("remat", ["none", "all again", "gathered kept"])
@pytest.mark.parametrize("name", FORWARD)
def test_the_program_sends_what_the_formula_says(name, remat):
  m = mesh(1, P)
  with jax.set_mesh(m):
    jaxpr = jax.make_jaxpr(_gradient(name, remat))(*_arguments(m))
  assert collectives.of_jaxpr(jaxpr) == _expected(name, remat)


COMPILED = [
  ("query_sharded", "gathered kept", dense.Dense(), False),
  *(
    pytest.param(*case, marks=pytest.mark.slow)
    for case in (
      ("query_sharded", "none", Blockwise(8, 8), True),
      ("ring", "all again", Blockwise(8, 8), True),
      ("ring", "gathered kept", Blockwise(8, 8), False),
      ("ulysses", "all again", Blockwise(8, 8), False),
      ("ulysses", "none", Blockwise(8, 8), True),
    )
  ),
]


def _compiled(name, remat, kernel, packed):
  m = mesh(1, P)
  given = jnp.asarray([[1] * 30 + [2] * 34] * B, jnp.int32)

  def gradient(x, w, d_x, segments):
    segments = axes.everywhere(segments) if packed else None
    return _gradient(name, remat, segments, kernel)(x, w, d_x)

  with jax.set_mesh(m):
    f = jax.jit(gradient, compiler_options=QUICK)
    lowered = f.lower(*_arguments(m), *on_mesh(m, given))
    return collectives.of_compiled(lowered.compile().as_text())


@pytest.mark.parametrize(("name", "remat", "kernel", "packed"), COMPILED)
def test_the_compiled_program_sends_no_more(name, remat, kernel, packed):
  expected = _expected(name, remat)
  if packed:
    # 4 bytes of each token, once for all layers.
    expected += Collectives(all_gather=Sent(1, 4 * B * L * SHARE))
  assert _compiled(name, remat, kernel, packed) == expected


@pytest.mark.parametrize("name", ATTEND)
def test_the_planner_counts_the_same(name):
  sent = ATTEND[name].sent(A, P, 4)
  assert sent.forward == FORWARD[name].total.bytes
  assert sent.backward == BACKWARD[name].total.bytes
  assert local.Local().sent(A, P, 4) == distribution.Sent()
