"""A model's answers in each view of readings of the data."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from flexivit_jax.core.metric import Metric
from flexivit_jax.core.tokens import Batch, Tokens
from flexivit_jax.devices import compilation, placement
from flexivit_jax.evaluation.reading import Reading
from flexivit_jax.evaluation.settings import Setting
from flexivit_jax.models import cost
from flexivit_jax.models.vit import ViT
from flexivit_jax.tasks import losses
from flexivit_jax.tasks.predictions import Answers, answer, gather
from flexivit_jax.tasks.task import Classification

# (params, batch, patch_hw=size) to answers; the size is None for packed rows.
Forward = Callable[..., Answers]


def forward(
  task: Classification, model: ViT, params, batch: Batch, *, patch_hw
) -> Answers:
  """The model's answers to a batch, on its devices."""
  logits = task.logits(model, params, batch, patch_hw=patch_hw)
  return answer(
    logits,
    task.loss.probabilities(logits),
    task.loss(logits, losses.targets(batch, logits.shape[-1])),
    batch.labels,
    batch.index,
  )


@dataclasses.dataclass(frozen=True)
class Program:
  """A forward pass compiled for whole batches.

  Attributes:
    call: (params, batch) to answers.
    compile_s: seconds that it took; those of the first time where it was kept
      since.
    peak_bytes: of each device, as the compiler plans it: parameters, inputs,
      outputs and temporaries.
  """

  call: Callable[[Any, Batch], Answers]
  compile_s: float
  peak_bytes: int

  def of(self, params) -> Callable[[Batch], Answers]:
    """With these parameters, as `sweep` wants it."""
    return functools.partial(self.call, params)


def compile_programs(
  at: Callable[[Setting], tuple[Forward, Any]],
  readings: Iterable[Reading],
  mesh: jax.sharding.Mesh,
  report: Callable[[str], None],
) -> dict[Setting, Program]:
  """Compile the programs of a sweep.

  Args:
    at: of a setting, its forward pass and parameters (or their shapes), which
      lie as they say on the mesh, or else on every device.
    report: called with one line after each program.
  """
  everywhere = placement.replicated(mesh)

  def where(x):
    own = getattr(x, "sharding", None)
    return own if isinstance(own, jax.sharding.NamedSharding) else everywhere

  wanted = [
    (each, view, setting)
    for each in readings
    for view, settings in enumerate(each.views)
    for setting in settings
  ]
  programs = {}
  for i, (each, view, setting) in enumerate(wanted, start=1):
    function, params = at(setting)
    options = {
      "in_shardings": (jax.tree.map(where, params), placement.over_rows(mesh)),
      "out_shardings": everywhere,
    }
    packed = each.is_packed(view)
    size = None if packed else setting.patch_hw
    batch = placement.shapes(each.loader.example(view), mesh)
    function = functools.partial(function, patch_hw=size)
    with compilation.counting_saved_seconds() as saved:
      call, seconds = compilation.timed(function, (params, batch), options)
      first = seconds + saved()
    programs[setting] = Program(call, first, compilation.peak_bytes(call))
    count = f" {i}/{len(wanted)}" if len(wanted) > 1 else ""
    kept = f" ({first:.1f} s the first time)" if saved() >= 0.1 else ""
    report(
      f"compiled evaluation{count}: {setting}{', packed' if packed else ''}, "
      f"{seconds:.1f} s{kept}"
    )
  return programs


@dataclasses.dataclass(frozen=True)
class Found:
  """Result of one setting.

  Attributes:
    answers: on the host, as they were gathered.
    tokens: patches per image, their mean where images differ.
    images_per_row: mean; 1 but for packed rows.
  """

  answers: Any
  tokens: float
  images_per_row: float


def sweep(
  programs: Mapping[Setting, Callable[[Batch], Answers]],
  readings: Sequence[Reading],
  on_devices: Callable[[Batch], Batch],
  progress: Callable[[int], None] = lambda images: None,
  gather: Callable[[list[Any]], Any] = gather,
) -> dict[Setting, Found]:
  """Answers to all images in each setting of each reading.

  Args:
    programs: from a batch on the devices.
    on_devices: places a batch.
    progress: called with the number of answers that came since the last time.
    gather: of one setting, the answers to batches, fetched, as one; answers of
      any kind that have an `index`, -1 where there is no image.
  """
  found = {}
  for each in readings:
    found |= _read(programs, each, on_devices, progress, gather)
  return found


def _read(programs, reading, on_devices, progress, gather):
  parts = {setting: [] for setting in reading.settings}
  tokens = [Metric.zero() for _ in reading.views]
  rows = [Metric.zero() for _ in reading.views]
  waiting = []

  def collect():
    for setting, answers in waiting:
      parts[setting].append(jax.device_get(answers))
      progress(int((parts[setting][-1].index >= 0).sum()))
    waiting.clear()

  for view, batch in reading.loader:
    images = batch.weights.sum()
    rows[view] += Metric(images, (batch.weights.sum(axis=1) > 0).sum())
    if isinstance(batch.inputs, Tokens):
      tokens[view] += Metric((batch.inputs.segments > 0).sum(), images)
    placed = on_devices(batch)
    computing = [(s, programs[s](placed)) for s in reading.views[view]]
    # The devices compute this batch while the last one's answers are fetched.
    collect()
    waiting += computing
  collect()
  return {
    setting: Found(
      gather(parts[setting]),
      float(tokens[view])
      if reading.is_packed(view)
      else cost.tokens(setting.image_hw, setting.patch_hw),
      float(rows[view]),
    )
    for view, settings in enumerate(reading.views)
    for setting in settings
  }
