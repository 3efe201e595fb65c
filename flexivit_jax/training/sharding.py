"""Devices: one mesh, rows over `data`, the tokens of a row over `seq`."""

import dataclasses
import functools

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flexivit_jax.training import token_order


@dataclasses.dataclass(frozen=True)
class MeshSpec:
  """How all devices of all processes share a step.

  Attributes:
    data: groups of devices, each with rows of its own; None: as many as there
      are devices for.
    seq: devices in a group, each with its share of every row's tokens.
    order: of the tokens over a group: "contiguous" or "strided". Strided, the
      images of a packed row are spread over all its devices, so that each has
      about as many blocks of other images to skip.
    double_averaging: gradients are averaged explicitly (`double_averaging`)
      instead of by the compiler: once for all microbatches.
  """

  data: int | None = None
  seq: int = 1
  order: str = token_order.CONTIGUOUS
  double_averaging: bool = False

  def __post_init__(self):
    for name in ("data", "seq"):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ValueError(f"{name} is {value}: give at least 1")
    orders = token_order.CONTIGUOUS, token_order.STRIDED
    if self.order not in orders:
      raise ValueError(f"order is {self.order!r}: give {' or '.join(orders)}")


def make_mesh(spec: MeshSpec | None = None) -> Mesh:
  """All devices along the axes `data` and `seq`; neighbours share a sequence.

  Args:
    spec: None: rows alone are shared.

  Raises:
    ValueError: there are not as many, with the meshes that there are.
  """
  spec, count = spec or MeshSpec(), jax.device_count()
  data = spec.data or max(1, count // spec.seq)
  if data * spec.seq != count:
    meshes = [
      f"data={count // seq}, seq={seq}"
      for seq in range(1, count + 1)
      if count % seq == 0
    ]
    raise ValueError(
      f"data={data}, seq={spec.seq} is a mesh of {data * spec.seq} devices, "
      f"but there are {count}: give {' or '.join(meshes)}"
    )
  return jax.make_mesh(
    (data, spec.seq),
    ("data", "seq"),
    axis_types=(AxisType.Auto, AxisType.Auto),
  )


def on_mesh(function, mesh: Mesh):
  """A function that is traced for these devices: what shares tokens between
  them (`attention`, `nn`) finds the mesh there."""

  @functools.wraps(function)
  def traced(*args, **kwargs):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*args, **kwargs)

  return traced


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
      f"{batch_size} images or packed rows do not divide over the {n} devices "
      f"of the mesh's axis data: take {' or '.join(map(str, options))}"
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
