"""How parameters, their average and the optimiser's state lie on devices."""

import dataclasses
import math
from typing import Protocol

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flexivit_jax.devices.placement import replicated


class ParameterSharding(Protocol):
  """Where each array of a training state lies."""

  def __call__(self, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding: ...


@dataclasses.dataclass(frozen=True)
class Replicated:
  """Every device holds all of it: data parallelism."""

  def __call__(self, shape, mesh):
    del shape
    return replicated(mesh)


@dataclasses.dataclass(frozen=True)
class Fsdp:
  """Every device holds a part of each array, along the mesh's axis `data`.

  Fully sharded data parallelism (arXiv:1910.02054): of parameters, their
  average, the optimiser's state and the summed gradients a device has its share
  alone. A step gathers each parameter for its forward pass and keeps it for the
  backward pass, so that the parameters, and nothing else, are whole for a
  while. An array is cut along the longest of its axes that the number of
  devices divides, the first of equals.

  Attributes:
    min_size: arrays of fewer numbers stay whole, as gathering them costs more
      than they take.
  """

  min_size: int = 2**14

  def __post_init__(self):
    if self.min_size < 0:
      raise ValueError(f"min_size is {self.min_size}: give at least 0")

  def __call__(self, shape, mesh):
    count = mesh.shape["data"]
    lengths = [n if n % count == 0 else 0 for n in shape]
    if math.prod(shape) < self.min_size or not any(lengths):
      return replicated(mesh)
    axis = lengths.index(max(lengths))
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def placed(shapes, sharding: ParameterSharding, mesh: Mesh):
  """A tree of shapes, with the place of each array."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding(x.shape, mesh)
    ),
    shapes,
  )


def gathered(params, where):
  """Parameters as every device needs them to compute with; their gradients go
  back to where the parameters lie.

  Left to itself the compiler moves activations between devices here and there
  instead, which are larger.

  Args:
    where: the sharding of each.
  """
  return jax.tree.map(
    lambda x, at: _gather(x, at) if "data" in at.spec else x,
    params,
    where,
  )


def _gather(x, where: NamedSharding):
  constrain = jax.lax.with_sharding_constraint

  @jax.custom_vjp
  def gather(x):
    return constrain(x, replicated(where.mesh))

  gather.defvjp(
    lambda x: (gather(x), None), lambda _, g: (constrain(g, where),)
  )
  return gather(x)
