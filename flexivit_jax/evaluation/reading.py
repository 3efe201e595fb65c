"""Readings of evaluation data: loader, views, settings."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from flexivit_jax.core.tokens import Batch, Tokens
from flexivit_jax.devices.processes import Processes
from flexivit_jax.evaluation.settings import Setting


class Loader(Protocol):
  """Every image once, decoded once, shown in one or more views.

  Attributes:
    bad: index to reason of the images that could not be decoded.
  """

  bad: dict[int, str]

  def __len__(self) -> int:
    """Images."""

  def only(self, views: Sequence[int]) -> "Loader":
    """A loader of these views alone."""

  def __iter__(self) -> Iterator[tuple[int, Batch]]:
    """(number of the view, batch)."""

  def example(self, view: int) -> Batch:
    """A batch of the shapes that will come, of no weight."""


@dataclasses.dataclass(frozen=True)
class Lockstep:
  """A loader that yields as many batches of a view in every process, in the
  same order: what computes on them needs all processes.

  Where a process has none to give, it gives one of no weight.

  Attributes:
    loader: of this process's share of the images.
    peers: the processes.
  """

  loader: Loader
  peers: Processes

  @property
  def bad(self) -> dict[int, str]:
    return self.loader.bad

  def __len__(self) -> int:
    return len(self.loader)

  def only(self, views: Sequence[int]) -> "Lockstep":
    return dataclasses.replace(self, loader=self.loader.only(views))

  def example(self, view: int) -> Batch:
    return self.loader.example(view)

  def __iter__(self) -> Iterator[tuple[int, Batch]]:
    batches = iter(self.loader)
    nothing = None, None
    view, batch = next(batches, nothing)
    while waiting := [v for v in self.peers.gather(view) if v is not None]:
      turn = min(waiting)
      if view == turn:
        yield view, batch
        view, batch = next(batches, nothing)
      else:
        yield turn, self.example(turn)


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
