"""What each way sends, against what its program sends, and laws of it."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, use_abstract_mesh

from flexivit_jax.attention import blockwise, dense, fused
from flexivit_jax.config import build
from flexivit_jax.core import collectives
from flexivit_jax.nn.encoder import Size
from flexivit_jax.run.plan import ways
from flexivit_jax.run.plan.workload import Layout, Weights, Workload

WAYS = {way.name: way for way in (ways.LOCAL, *ways.SHARED_UNDER_REMAT)}
SENDING = [w for w in WAYS.values() if w.attention is not None][1:]
B, L, H, DH = 4, 64, 8, 4


def _counted(way, layout, dtype, remat=False):
  """(forward, backward) bytes that a device sends for one attention."""
  shape = jax.ShapeDtypeStruct
  x = shape((B, L, H, DH), dtype)
  if "activations" in way.name:
    y = shape((B, L, H * DH), dtype)
    w = shape((2, H * DH, H, DH), dtype)

    def project(w, y, _):
      return jnp.einsum("bld,cdhe->cblhe", y, w)

    def attend(q, y, w):
      kernel = dense.Dense()
      return way_of.from_activations(kernel, q, y, w, project).out

    arguments = x, y, w
  else:

    def attend(q, k, v):
      return way_of(blockwise.Blockwise(), q, k, v).out

    arguments = x, x, x
  way_of = way.attention
  f = attend
  if remat:
    kept = jax.checkpoint_policies.save_only_these_names(*way_of.kept)
    # The projection that follows needs the output, to differentiate.
    f = jax.checkpoint(
      lambda *arguments: jnp.sin(attend(*arguments)), policy=kept
    )

  def both(*arguments):
    out, backward = jax.vjp(f, *arguments)
    return out, backward(out)

  mesh = AbstractMesh(
    tuple(layout), ("data", "seq"), axis_types=(AxisType.Auto,) * 2
  )
  with use_abstract_mesh(mesh):
    forward, whole = (
      collectives.of_jaxpr(jax.make_jaxpr(g)(*arguments))
      for g in (attend, both)
    )

  def sent(found):
    # Gradients of the weights are summed with all others.
    return found.total.bytes - found.all_reduce.bytes

  return sent(forward), sent(whole) - sent(forward)


@pytest.mark.parametrize("way", [ways.LOCAL, *SENDING], ids=lambda w: w.name)
def test_settings_choose_it(way):
  overrides = ["mesh.seq=1", *way.settings]
  experiment = build.load("configs/long_digits.py", overrides)
  assert experiment.model.distribution == way.attention


@pytest.mark.parametrize(
  ("layout", "dtype"), [(Layout(2, 2), "float32"), (Layout(2, 8), "bfloat16")]
)
@pytest.mark.parametrize("way", SENDING, ids=lambda w: w.name)
def test_formulas_are_what_a_program_sends(way, layout, dtype):
  itemsize = jnp.dtype(dtype).itemsize
  a = B // layout.data * L * H * DH * itemsize
  assert way.sent(a, layout.seq, itemsize) == _counted(way, layout, dtype)


@pytest.mark.parametrize("way", SENDING, ids=lambda w: w.name)
def test_remat_sends_again_what_it_does_not_keep(way):
  layout = Layout(2, 4)
  forward, backward = way.sent(B // 2 * L * H * DH * 4, 4, 4)
  again = forward if way.sends_again else 0
  counted = _counted(way, layout, "float32", remat=True)
  assert counted == (forward, backward + again)


# In the order and the units of the sources' formulas: a (p - 1) / p.
@pytest.mark.parametrize(
  ("name", "forward", "backward"),
  [
    ("local", 0, 0),
    ("query_sharded", 2, 2),
    ("query_sharded, activations", 1, 1),
    ("tensor + sequence", 4, 4),
  ],
)
def test_formulas_of_the_literature(name, forward, backward):
  for p in (2, 8):
    unit = 3000 * (p - 1) / p
    assert WAYS[name].sent(3000, p, 2) == (forward * unit, backward * unit)


def test_ring_sends_gradients_home_in_float32():
  for p, itemsize in itertools.product((2, 8), (2, 4)):
    a = 100 * itemsize
    forward, backward = WAYS["ring"].sent(a, p, itemsize)
    assert forward == 2 * a * (p - 1) / p
    assert backward - forward == 2 * 100 * 4


def test_ulysses_falls_as_one_over_p_squared_and_others_do_not_fall():
  def sent(name, p):
    return sum(WAYS[name].sent(1.0, p, 4)) / (p - 1)

  assert sent("ulysses", 8) * 16 == sent("ulysses", 2)
  for name in ("query_sharded", "ring", "tensor + sequence"):
    assert 7 * sent(name, 8) > sent(name, 2)


def test_what_is_held_by_a_ring_falls_as_one_over_p():
  def held(name, p):
    return sum(WAYS[name].held(1.0, p, 4)[:2])

  assert held("ring", 8) * 4 == held("ring", 2)
  assert held("ulysses", 8) * 4 == held("ulysses", 2)
  # All keys and values, and their gradients.
  assert held("query_sharded", 8) > held("query_sharded", 2) > 4


@pytest.mark.parametrize(
  ("name", "logits"),
  [
    ("local", (8, 64, 64)),
    ("query_sharded", (8, 16, 64)),
    ("ring", (8, 16, 16)),
    ("ulysses", (2, 64, 64)),
    ("tensor + sequence", (2, 64, 64)),
  ],
)
def test_logits_of_dense_attention(name, logits):
  assert WAYS[name].logits(64, 8, 4) == logits


def _work(**changes):
  fields = dict(
    rows=8,
    length=64,
    size=Size(32, 2, 64, 8),
    weights=Weights(1000, 4000, 8000),
    block_numbers=800,
    table=Weights(0, 0, 0),
    outside=0,
    patch_numbers=3,
  )
  return Workload(**(fields | changes))


def test_refusals_are_those_of_the_attention():
  def refusal(name, layout, **changes):
    return WAYS[name].refusal(_work(**changes), layout)

  for name in WAYS:
    assert refusal(name, Layout(8, 1)) is None
    if name != "local":
      assert refusal(name, Layout(1, 8)) is None
  assert refusal("local", Layout(1, 8)) == (
    "the distribution local needs whole rows, but 8 devices of the mesh's axis "
    "seq share each: take query_sharded, ring or ulysses, or seq=1"
  )
  assert refusal("ring", Layout(1, 8), length=60) == (
    "60 tokens of a row do not divide over the 8 devices of the mesh's axis "
    "seq: take seq=1 or 2 or 3 or 4 or 5 or 6 or 10 or 12 or 15, or 56 or 64 "
    "tokens"
  )
  size = Size(30, 2, 64, 6)
  assert refusal("ulysses", Layout(1, 8), size=size) == (
    "6 heads do not divide over the 8 devices of the mesh's axis seq, as the "
    "distribution ulysses needs: take 1 or 2 or 3 or 6 devices, or the "
    "distribution query_sharded or ring"
  )
  assert refusal("tensor + sequence", Layout(1, 8), size=size) == (
    "6 heads and 64 tokens do not both divide over 8 devices"
  )
  assert refusal("ring", Layout(1, 8), kernel=fused.Triton()) == (
    "the distribution ring merges by the lse, which kernel triton does not "
    "give: take the kernel blockwise, or the distribution ulysses"
  )
  assert refusal("ulysses", Layout(1, 8), kernel=fused.Triton()) is None
