"""The mesh's axes, and how attention is split over them."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

DATA = "data"  # rows
SEQ = "seq"  # the tokens of a row

# What came from other devices, or was made of it, by the name that
# `jax.checkpoint_policies.save_only_these_names` takes: kept, a rematerialised
# layer sends nothing again in its backward pass.
GATHERED = "gathered"


def parts() -> int:
  """Devices that share a row, in the context that is being traced."""
  return _size(SEQ)


def inside_shard_map() -> bool:
  """Whether arrays are already one device's share of their tokens."""
  return SEQ in jax.sharding.get_abstract_mesh().manual_axes


def splits_rows() -> bool:
  """Whether arrays of the context have rows of several devices."""
  mesh = jax.sharding.get_abstract_mesh()
  return _size(DATA) > 1 and DATA not in mesh.manual_axes


def _size(axis: str) -> int:
  return dict(jax.sharding.get_abstract_mesh().shape).get(axis, 1)


def per_device(
  f: Callable,
  split: Any,
  whole: Any,
  *,
  whole_rows: bool = False,
  check_vma: bool = True,
):
  """f on each device's share: one `shard_map`, manual over every axis.

  Args:
    f: of two pytrees of arrays, as `split` and `whole`; returns arrays
      `[b, l, ...]`, of the device's own tokens.
    split: arrays `[b or 1, l, ...]` of which f sees its own tokens.
    whole: the same, of which f sees all tokens.
    whole_rows: f returns all tokens of its rows.
    check_vma: see `jax.shard_map`; kernels of libraries lack it.

  Rows go over `data` if it divides them, else each of its devices computes
  all: a model is initialised with one row.
  """
  mesh = jax.sharding.get_abstract_mesh()
  rows = max(x.shape[0] for x in jax.tree.leaves((split, whole)))
  data = DATA if splits_rows() and rows % _size(DATA) == 0 else None

  def spec(tokens):
    def of(x):
      return PartitionSpec(data if x.shape[0] == rows else None, tokens)

    return of

  return jax.shard_map(
    f,
    in_specs=(
      jax.tree.map(spec(SEQ), split),
      jax.tree.map(spec(None), whole),
    ),
    out_specs=PartitionSpec(data, None if whole_rows else SEQ),
    axis_names=set(mesh.axis_names) - set(mesh.manual_axes),
    check_vma=check_vma,
  )(split, whole)


def everywhere(x):
  """Constrains `[b or 1, l, ...]` to have all tokens on every device.

  For segments and rotations, before the layers: each layer reads all of them,
  and a rematerialised one would gather them again. As it is without an axis
  `seq`, or inside `shard_map`; None of None.
  """
  if x is None or parts() == 1 or inside_shard_map():
    return x
  data = DATA if splits_rows() and x.shape[0] % _size(DATA) == 0 else None
  return lax.with_sharding_constraint(x, PartitionSpec(data))


def own(x, hops: int | jax.Array = 0):
  """A device's tokens, cut from all; inside shard_map.

  Args:
    x: `[b or 1, l, ...]`; None of None.
    hops: how many devices before this one.
  """
  if x is None:
    return None
  length = x.shape[1] // parts()
  start = (lax.axis_index(SEQ) - hops) % parts() * length
  return lax.dynamic_slice_in_dim(x, start, length, axis=1)


def received(x):
  """x, named `GATHERED`."""
  return jax.tree.map(lambda x: checkpoint_name(x, GATHERED), x)


def gather(x, axis: int = 1):
  """All tokens of an array that holds its device's own; inside shard_map."""
  return lax.all_gather(x, SEQ, axis=axis, tiled=True)


def own_tokens(x: jax.Array) -> jax.Array:
  """The device's own tokens of all that it has, `[b or 1, l, ...]`."""
  return own(x) if inside_shard_map() else split(x)


def split(x: jax.Array) -> jax.Array:
  """`[b or 1, l, ...]`, which the compiler is to lay out with rows over `data`
  and tokens over `seq`; as it is inside a `shard_map`."""
  if parts() == 1 or inside_shard_map():
    return x
  rows = None if x.shape[0] == 1 else DATA
  return lax.with_sharding_constraint(x, PartitionSpec(rows, SEQ))


def total(x: jax.Array) -> jax.Array:
  """What devices of a row summed over their own tokens, summed over all."""
  return lax.psum(x, SEQ) if inside_shard_map() else x


def mean(x: jax.Array) -> jax.Array:
  """What they averaged, averaged."""
  return lax.pmean(x, SEQ) if inside_shard_map() else x
