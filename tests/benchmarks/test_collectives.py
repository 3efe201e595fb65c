"""Collectives are counted by how often they run, and how they are spelled."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from benchmarks import collectives
from benchmarks.collectives import Collectives, Sent

MESH = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
# Each device holds [2, 4] float32: 32 bytes.
X = np.ones((4, 16), np.float32)


def _shared(f):
  spec = PartitionSpec("a", "b")
  return jax.shard_map(
    f, mesh=MESH, in_specs=spec, out_specs=spec, check_vma=False
  )


def _of_jaxpr(f):
  return collectives.of_jaxpr(jax.make_jaxpr(_shared(f))(X))


def _of_compiled(f):
  text = jax.jit(_shared(f)).lower(X).compile().as_text()
  return collectives.of_compiled(text)


def _gather(x):
  return jax.lax.all_gather(x, "b", axis=1, tiled=True)


def _scatter(x):
  return jax.lax.psum_scatter(x, "b", scatter_dimension=1, tiled=True)


def _swap(x):
  return jax.lax.all_to_all(x, "b", split_axis=1, concat_axis=0, tiled=True)


def _pass(x):
  return jax.lax.ppermute(x, "b", [(i, (i + 1) % 4) for i in range(4)])


ONE = {
  # 32 bytes to each of 3 others.
  "all_gather": (_gather, 3 * 32),
  # A quarter of its 32 to each of 3 others.
  "reduce_scatter": (_scatter, 3 * 8),
  "all_to_all": (_swap, 3 * 8),
  "collective_permute": (_pass, 32),
  # A reduce-scatter and an all-gather, over 4 devices or all 8.
  "all_reduce": (lambda x: jax.lax.psum(x, "b"), 2 * 3 * 8),
  "all_reduce of all": (lambda x: jax.lax.psum(x, ("a", "b")), 2 * 7 * 4),
}


@pytest.mark.parametrize("name", ONE)
def test_one_collective(name):
  f, sent = ONE[name]
  expected = Collectives(**{name.removesuffix(" of all"): Sent(1, sent)})
  assert _of_jaxpr(f) == expected
  assert _of_compiled(f) == expected
  assert expected.total == Sent(1, sent)


def _repeated(x):
  def body(x, _):
    return jax.lax.fori_loop(0, 5, lambda _, x: _pass(x), x), None

  return jax.lax.scan(jax.checkpoint(body), x, length=3)[0]


def test_loops_in_loops_multiply():
  expected = Collectives(collective_permute=Sent(15, 15 * 32))
  assert _of_jaxpr(_repeated) == expected
  assert _of_compiled(_repeated) == expected


def test_loops_without_a_count_are_refused():
  def f(x):
    return jax.lax.while_loop(lambda x: x.sum() < 9, _pass, x)

  for count in (_of_jaxpr, _of_compiled):
    with pytest.raises(ValueError, match="loop with collectives may run any"):
      count(f)


def test_branches_that_differ_are_refused():
  def f(x, branch=lambda x: x):
    return jax.lax.cond(x.sum() > 0, _pass, branch, x)

  with pytest.raises(ValueError, match="branches of a cond send different"):
    _of_jaxpr(f)
  same = _of_jaxpr(lambda x: f(x, lambda x: _pass(2 * x)))
  assert same == Collectives(collective_permute=Sent(1, 32))


# What compilers for other platforms write, with operands left out.
LINES = {
  "lists": ("%a = f32[8,4] all-gather(%x), replica_groups={{0,1},{2,3}}", 64),
  "transposed tiles": (
    "%a = f32[8,4] all-gather(%x), replica_groups=[4,2]<=[2,4]T(1,0)",
    64,
  ),
  "mesh": (
    "%a = f32[8,4] all-gather(%x), "
    "replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}",
    96,
  ),
  "async sum": (
    "%a = f32[8,4] all-reduce-start(%x), replica_groups=[2,4]<=[8], "
    "to_apply=%add",
    192,
  ),
  "narrow types": (
    "%a = (f8e4m3fn[8], pred[8], s4[8]) all-gather(%x, %y, %z), "
    "replica_groups=[2,4]<=[8]",
    15,
  ),
}


def _program(line):
  return f"""HloModule f, is_scheduled=true, num_partitions=8

%add (p: f32[], q: f32[]) -> f32[] {{
  %p = f32[] parameter(0)
  %q = f32[] parameter(1)
  ROOT %sum = f32[] add(%p, %q)
}}

ENTRY %main (x: f32[2,4]) -> f32[2,4] {{
  %x = f32[2,4] parameter(0)
  {line}
  ROOT %b = f32[8,4] all-gather-done(%a)
}}
"""


@pytest.mark.parametrize(("line", "sent"), LINES.values(), ids=LINES)
def test_every_spelling(line, sent):
  got = collectives.of_compiled(_program(line)).total
  assert got == Sent(1, sent)


def test_what_is_not_known_is_refused():
  line = "%a = f32[8,4] ragged-all-to-all(%x), replica_groups={}"
  with pytest.raises(ValueError, match="what ragged-all-to-all sends is not"):
    collectives.of_compiled(_program(line))
  with pytest.raises(ValueError, match="give the text of a compiled program"):
    collectives.of_compiled("no program")
