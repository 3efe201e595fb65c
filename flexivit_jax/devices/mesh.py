"""Meshes of devices, and batch sizes that they divide."""

import dataclasses
import functools

import jax
from jax.sharding import AxisType, Mesh

from flexivit_jax.core import cut


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
  """

  data: int | None = None
  seq: int = 1
  order: str = cut.CONTIGUOUS

  def __post_init__(self):
    for name in ("data", "seq"):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ValueError(f"{name} is {value}: give at least 1")
    orders = cut.CONTIGUOUS, cut.STRIDED
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
