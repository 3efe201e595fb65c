"""Cascades run for real: the images that go on are moved together.

The batch stays on the devices. After each size its confidences come to the
host, one small transfer, which decides who goes on; a program that is compiled
for so many rows takes those images out of the batch and answers them. Their
number is padded to n, 2 n, 4 n, ... on n devices, up to the whole batch: so the
devices share all rows evenly, each has a power of two of them, and a batch of
b needs log2(b / n) + 1 programs for each size, rounded up. On many devices
fewer images than devices go on as one row for each.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from flexivit_jax.core.sizes import size_name
from flexivit_jax.core.tokens import Batch, Tokens
from flexivit_jax.devices import mesh as mesh_lib
from flexivit_jax.devices import placement
from flexivit_jax.evaluation.cascade.cascade import STOP, Cascade, goes_on
from flexivit_jax.evaluation.sweep import Forward
from flexivit_jax.tasks.predictions import Answers


@dataclasses.dataclass(frozen=True)
class Programs:
  """All that some cascades need, compiled.

  Attributes:
    mesh: the devices.
    whole: by patch size, (params, batch) to `Answers`.
    some: by patch size and number of rows, (params, batch, rows) to `Answers`
      of those rows of the batch; rows i32, -1 where there is none.
  """

  mesh: jax.sharding.Mesh
  whole: Mapping[tuple[int, int], Callable]
  some: Mapping[tuple[int, int], Mapping[int, Callable]]

  def warm(self, params, batch: Batch) -> None:
    """Runs each program once: the first run of some is slower."""
    for program in self.whole.values():
      jax.block_until_ready(program(params, batch))
    for programs in self.some.values():
      for count, program in programs.items():
        rows = _place(np.full(count, -1, np.int32), self.mesh)
        jax.block_until_ready(program(params, batch, rows))


def row_counts(batch_size: int, num_devices: int) -> tuple[int, ...]:
  """Numbers of rows to compile for: (16, 2) as (2, 4, 8, 16).

  Args:
    batch_size: a multiple of num_devices, and the last of them.
  """
  counts = []
  count = num_devices
  while count < batch_size:
    counts.append(count)
    count *= 2
  return *counts, batch_size


def compile_cascades(
  forward: Forward,
  cascades: Iterable[Cascade],
  params,
  example: Batch,
  *,
  mesh: jax.sharding.Mesh,
  report: Callable[[str], None],
) -> Programs:
  """Compile the programs of cascades; thresholds are not compiled in.

  Args:
    forward: of a batch of any number of rows.
    params: replicated over the mesh.
    example: a batch of the shapes that will come, of images of one size.
    report: called with one line after each program.

  Raises:
    ValueError: the batch is packed, or the devices cannot share it evenly.
  """
  if isinstance(example.inputs, Tokens):
    raise ValueError(
      "a cascade cuts images again at each patch size, and these are packed: "
      "give images of one size"
    )
  cascades = list(cascades)
  batch_size = example.index.shape[0]
  mesh_lib.check_batch_size(batch_size, mesh)
  counts = row_counts(batch_size, mesh.size)
  # In this order, each once.
  first = dict.fromkeys(c.sizes[0] for c in cascades)
  later = dict.fromkeys(size for c in cascades for size in c.sizes[1:])
  wanted = [(size, None) for size in first]
  wanted += [(size, count) for size in later for count in counts]
  batch = placement.shapes(example, mesh)
  programs = {}
  for i, (size, count) in enumerate(wanted, start=1):
    start = time.perf_counter()
    at_size = functools.partial(forward, patch_hw=size)
    programs[size, count] = _compile(at_size, params, batch, count, mesh)
    report(
      f"compiled cascade {i}/{len(wanted)}: {size_name(size)} px, "
      f"{count or batch_size} images, {time.perf_counter() - start:.1f} s"
    )
  return Programs(
    mesh,
    {size: programs[size, None] for size in first},
    {size: {n: programs[size, n] for n in counts} for size in later},
  )


def _compile(at_size, params, batch, count: int | None, mesh):
  """For so many rows of a batch that are picked; None: for all as they are."""
  everywhere, over_rows = placement.replicated(mesh), placement.over_rows(mesh)

  def picking(params, batch, rows):
    picked = jax.lax.with_sharding_constraint(_pick(batch, rows), over_rows)
    return at_size(params, picked)

  function, arguments = at_size, (params, batch)
  shardings = (everywhere, over_rows)
  if count is not None:
    rows = jax.ShapeDtypeStruct((count,), jnp.int32, sharding=everywhere)
    function, arguments = picking, (*arguments, rows)
    shardings = (*shardings, everywhere)
  compiling = jax.jit(function, in_shardings=shardings, out_shardings=over_rows)
  return compiling.lower(*arguments).compile()


def _pick(batch: Batch, rows: jax.Array) -> Batch:
  """Rows of a batch; at -1 legal pixels of no image."""
  real = (rows >= 0).reshape(-1, 1)
  take = functools.partial(
    jnp.take, indices=jnp.maximum(rows, 0), axis=0, mode="clip"
  )
  picked = jax.tree.map(take, batch)
  return dataclasses.replace(
    picked,
    weights=jnp.where(real, picked.weights, 0),
    index=jnp.where(real, picked.index, -1),
  )


def _place(rows: np.ndarray, mesh) -> jax.Array:
  return jax.device_put(rows, placement.replicated(mesh))


@dataclasses.dataclass(frozen=True)
class Ran:
  """Result of a cascade on one batch.

  Attributes:
    answers: `[b]` on the host, in the order of the batch; index -1 where the
      batch has no image.
    stages: i32 `[b]`, where each stopped.
    rows: computed at each size, padding included.
  """

  answers: Answers
  stages: np.ndarray
  rows: tuple[int, ...]


def run(programs: Programs, cascade: Cascade, params, batch: Batch) -> Ran:
  """One batch through a cascade.

  A row's answers depend on how many rows are computed with it as far as the
  rounding of float32 does: matrix products of other shapes add up in another
  order. So an image whose confidence all but equals a threshold may stop in
  one batch and go on in another.

  Args:
    programs: compiled for this cascade, or for more.
    batch: on the devices.
  """
  first, *later = cascade.sizes
  parts = [programs.whole[first](params, batch)]
  rows = np.arange(parts[0].index.shape[0], dtype=np.int32)
  taken = [rows]
  for patch_hw, threshold in zip(later, cascade.thresholds):
    if threshold == STOP:
      break
    last = parts[-1]
    # All that the devices ever wait for.
    confidence, index = jax.device_get((last.confidence, last.index))
    alive = goes_on(confidence.ravel(), threshold) & (index.ravel() >= 0)
    rows = _padded(rows[alive], programs.some[patch_hw])
    if not rows.size:
      break
    program = programs.some[patch_hw][rows.size]
    parts.append(program(params, batch, _place(rows, programs.mesh)))
    taken.append(rows)
  return _restore(jax.device_get(parts), taken, len(cascade.sizes))


def _padded(rows: np.ndarray, counts: Iterable[int]) -> np.ndarray:
  """With -1 up to the next of the counts, which rise; none stay none."""
  if not rows.size:
    return rows
  count = next(count for count in counts if count >= rows.size)
  return np.pad(rows, (0, count - rows.size), constant_values=-1)


def _restore(parts: Sequence[Answers], taken, num_sizes: int) -> Ran:
  """Answers in the order of the batch, of each image the last."""
  stages = np.zeros(taken[0].size, np.int32)
  for rows in taken[1:]:
    stages[rows[rows >= 0]] += 1

  def merge(*columns):
    merged = np.empty_like(columns[0].ravel())
    for rows, column in zip(taken, columns, strict=True):
      merged[rows[rows >= 0]] = column.ravel()[rows >= 0]
    return merged

  computed = [rows.size for rows in taken]
  idle = [0] * (num_sizes - len(computed))
  return Ran(jax.tree.map(merge, *parts), stages, (*computed, *idle))
