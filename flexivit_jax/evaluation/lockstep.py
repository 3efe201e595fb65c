"""Evaluations of packed rows: how many a process will fill, it cannot know."""

import dataclasses
from collections.abc import Iterator, Sequence

from flexivit_jax.core.peers import Peers
from flexivit_jax.core.tokens import Batch
from flexivit_jax.evaluation.sweep import Loader


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
  peers: Peers

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
