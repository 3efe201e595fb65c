"""A model's tokens on the devices that share a row, whoever splits them.

Each function does what the context (see `axes`) asks for: nothing where no
devices share a row, a constraint for the compiler where it splits the program,
the device's own part inside a `shard_map`.
"""

import jax
from jax import lax
from jax.sharding import PartitionSpec

from flexivit_jax.attention import axes


def own(x: jax.Array) -> jax.Array:
  """The device's own tokens of all that it has, `[b or 1, l, ...]`."""
  return axes.own(x) if axes.inside_shard_map() else split(x)


def split(x: jax.Array) -> jax.Array:
  """`[b or 1, l, ...]`, which the compiler is to lay out with rows over `data`
  and tokens over `seq`; as it is inside a `shard_map`."""
  if axes.parts() == 1 or axes.inside_shard_map():
    return x
  rows = None if x.shape[0] == 1 else axes.DATA
  return lax.with_sharding_constraint(x, PartitionSpec(rows, axes.SEQ))


def total(x: jax.Array) -> jax.Array:
  """What devices of a row summed over their own tokens, summed over all."""
  return lax.psum(x, axes.SEQ) if axes.inside_shard_map() else x


def mean(x: jax.Array) -> jax.Array:
  """What they averaged, averaged."""
  return lax.pmean(x, axes.SEQ) if axes.inside_shard_map() else x
