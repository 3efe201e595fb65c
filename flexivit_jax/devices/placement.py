"""Devices: one mesh, rows over `data`, the tokens of a row over `seq`."""

import functools

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def over_rows(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec("data"))


@functools.lru_cache
def process_rows(mesh: Mesh, process: int | None = None) -> tuple[int, int]:
  """Which rows of every batch a process holds: (index, count) of row groups.

  Rows lie along `data` alone. So where `seq` spans processes, several of them
  have the same rows: each loads and feeds all of its group's. Groups are in
  the order of their first rows; a group's rows stay in order.

  Args:
    process: its index; None: this process.

  Raises:
    ValueError: processes share some of their rows, or have not equally many;
      with the lengths of `seq` that would work.
  """
  axis = mesh.axis_names.index("data")
  rows = np.moveaxis(mesh.devices, axis, 0).reshape(
    mesh.devices.shape[axis], -1
  )
  held: dict[int, set[int]] = {}
  for place, devices in enumerate(rows):
    for device in devices:
      held.setdefault(device.process_index, set()).add(place)
  groups = sorted({tuple(sorted(places)) for places in held.values()})
  if sum(map(len, groups)) != len(rows) or len(set(map(len, groups))) > 1:
    first, other = _unequal(held)
    total, local = rows.size, rows.size // len(held)
    # It divides a process's devices, or is a multiple of them.
    seq = [
      n
      for n in range(1, total + 1)
      if total % n == 0 and (local % n == 0 or n % local == 0)
    ]
    raise ValueError(
      f"{_shape(mesh)} devices over {len(held)} processes: process {first} has "
      f"the rows of data {_places(held[first])}, process {other} those of "
      f"{_places(held[other])}; give all processes equally many devices, and "
      f"a seq of {', '.join(map(str, seq))}"
    )
  own = jax.process_index() if process is None else process
  return groups.index(tuple(sorted(held[own]))), len(groups)


def _unequal(held):
  """Two processes that neither have the same rows nor equally many others."""
  return next(
    (i, j)
    for i in sorted(held)
    for j in sorted(held)
    if i < j
    and held[i] != held[j]
    and (held[i] & held[j] or len(held[i]) != len(held[j]))
  )


def _shape(mesh):
  names = " x ".join(mesh.axis_names)
  return f"{' x '.join(map(str, mesh.devices.shape))} ({names})"


def _places(places):
  return ", ".join(map(str, sorted(places)))


def to_devices(batch, mesh: Mesh):
  """This process's rows as global arrays, rows over `data`."""
  sharding, (_, groups) = over_rows(mesh), process_rows(mesh)

  def place(x):
    x = np.asarray(x)
    shape = (x.shape[0] * groups, *x.shape[1:])
    return jax.make_array_from_process_local_data(sharding, x, shape)

  return jax.tree.map(place, batch)


def replicate(tree, mesh: Mesh):
  """The same arrays on every device; every process must have the same."""
  everywhere = replicated(mesh)
  if jax.process_count() == 1:
    return jax.device_put(tree, everywhere)

  # `device_put` would compare each array over all processes.
  def place(x):
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, everywhere, x.__getitem__)

  return jax.tree.map(place, tree)


def shapes(batch, mesh: Mesh):
  """What `to_devices` would return, without data: to compile for."""
  sharding, (_, groups) = over_rows(mesh), process_rows(mesh)

  def shape(x):
    rows = x.shape[0] * groups
    return jax.ShapeDtypeStruct(
      (rows, *x.shape[1:]), x.dtype, sharding=sharding
    )

  return jax.tree.map(shape, batch)
