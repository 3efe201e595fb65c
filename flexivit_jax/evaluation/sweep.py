"""Readings of the data, and what a model answers in each of their views."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax

from flexivit_jax.core.means import Mean
from flexivit_jax.core.tokens import Batch, Tokens
from flexivit_jax.evaluation.answers import Answers, answer, gather
from flexivit_jax.evaluation.points import Setting
from flexivit_jax.nn import cost
from flexivit_jax.nn.vit import ViT
from flexivit_jax.tasks import losses
from flexivit_jax.tasks.task import Classification
from flexivit_jax.training import compilation, sharding


class Loader(Protocol):
  """Every image once, decoded once, shown in one or more views.

  Attributes:
    bad: index to reason of the images that could not be decoded.
  """

  bad: dict[int, str]

  def __len__(self) -> int:
    """Images."""

  def only(self, views: Sequence[int]) -> "Loader":
    """The same images in these views alone."""

  def __iter__(self) -> Iterator[tuple[int, Batch]]:
    """(number of the view, batch)."""

  def example(self, view: int) -> Batch:
    """A batch of the shapes that will come, of no weight."""


@dataclasses.dataclass(frozen=True)
class Reading:
  """One reading of the data.

  Attributes:
    loader: of images of one size, which are cut on the devices, or of packed
      rows.
    views: for each view of the loader what is measured on its batches: of
      packed rows the one setting that they were cut in.
    shown: how each view shows the images, beside its settings, as text.
  """

  loader: Loader
  views: tuple[tuple[Setting, ...], ...]
  shown: tuple[str, ...] = ()

  @property
  def settings(self) -> Iterator[Setting]:
    for view in self.views:
      yield from view

  def is_packed(self, view: int) -> bool:
    return isinstance(self.loader.example(view).inputs, Tokens)

  def only(self, wanted: Callable[[int, Setting], bool]) -> "Reading":
    """With those settings alone of which `wanted(view, setting)` is true, and
    with the views that they need."""
    views = [
      tuple(s for s in settings if wanted(view, s))
      for view, settings in enumerate(self.views)
    ]
    kept = [view for view, settings in enumerate(views) if settings]
    return Reading(
      self.loader.only(kept),
      tuple(views[view] for view in kept),
      tuple(self.shown[view] for view in kept),
    )


@dataclasses.dataclass(frozen=True)
class OneView:
  """The batches of a loader's only view."""

  loader: Loader

  def __iter__(self) -> Iterator[Batch]:
    return (batch for _, batch in self.loader)

  def example(self) -> Batch:
    return self.loader.example(0)


def bad_images(readings: Iterable[Reading]) -> dict[int, str]:
  """Index to reason of the images that could not be decoded, each once."""
  return {i: text for each in readings for i, text in each.loader.bad.items()}


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
  """What `sweep` needs.

  Args:
    at: of a setting, its forward pass and parameters (or their shapes), which
      lie as they say on the mesh, or else on every device.
    report: called with one line after each program.
  """
  everywhere = sharding.replicated(mesh)

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
      "in_shardings": (jax.tree.map(where, params), sharding.over_rows(mesh)),
      "out_shardings": everywhere,
    }
    packed = each.is_packed(view)
    size = None if packed else setting.patch_hw
    batch = sharding.shapes(each.loader.example(view), mesh)
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
  """What one setting gave.

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
  tokens = [Mean.zero() for _ in reading.views]
  rows = [Mean.zero() for _ in reading.views]
  waiting = []

  def collect():
    for setting, answers in waiting:
      parts[setting].append(jax.device_get(answers))
      progress(int((parts[setting][-1].index >= 0).sum()))
    waiting.clear()

  for view, batch in reading.loader:
    images = batch.weights.sum()
    rows[view] += Mean(images, (batch.weights.sum(axis=1) > 0).sum())
    if isinstance(batch.inputs, Tokens):
      tokens[view] += Mean((batch.inputs.segments > 0).sum(), images)
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
