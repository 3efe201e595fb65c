"""Devices: one mesh, rows over `data`, everything else replicated."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh() -> Mesh:
  """All devices of all processes along one axis, `data`."""
  return jax.make_mesh(
    (jax.device_count(),), ("data",), axis_types=(AxisType.Auto,)
  )


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def over_rows(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
  """Refuses a global batch that the devices cannot share evenly.

  Raises:
    ValueError: with the nearest sizes that would work.
  """
  n = mesh.shape["data"]
  if batch_size < 1 or batch_size % n:
    below = max(n, batch_size // n * n)
    above = below if below > batch_size else below + n
    options = dict.fromkeys((below, above))
    raise ValueError(
      f"{batch_size} images do not divide over {n} devices: take "
      f"{' or '.join(map(str, options))}"
    )


def check_accumulation(accumulate: int, batch_size: int, mesh: Mesh) -> None:
  """Refuses microbatches that differ in size, or that the devices cannot share.

  Args:
    batch_size: over all devices, which divide it.

  Raises:
    ValueError: with the numbers of microbatches that would work.
  """
  rows = batch_size // mesh.shape["data"]
  if rows % accumulate:
    valid = [str(n) for n in range(1, rows + 1) if rows % n == 0]
    raise ValueError(
      f"{batch_size} images, {rows} on each of {mesh.shape['data']} devices, "
      f"are not {accumulate} equal microbatches: give {' or '.join(valid)}"
    )


def round_up(batch_size: int, mesh: Mesh) -> int:
  """The next batch size that the devices share evenly; padding fills it."""
  n = mesh.shape["data"]
  return -(-batch_size // n) * n


def to_devices(batch, mesh: Mesh):
  """This process's rows as global arrays, rows over `data`."""
  sharding = over_rows(mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)),
    batch,
  )


def shapes(batch, mesh: Mesh):
  """What `to_devices` would return, without data: to compile for."""
  sharding = over_rows(mesh)
  count = jax.process_count()

  def shape(x):
    rows = x.shape[0] * count
    return jax.ShapeDtypeStruct(
      (rows, *x.shape[1:]), x.dtype, sharding=sharding
    )

  return jax.tree.map(shape, batch)
