"""Processes with different numbers of batches go through as many."""

import concurrent.futures
import itertools
import threading

import numpy as np
import pytest

from flexivit_jax.evaluation.reading import Lockstep


class Batches:
  """(view, batch) as text; what is of no weight is "-"."""

  def __init__(self, *batches):
    self.bad = {3: "bad"}
    self.batches = batches

  def __iter__(self):
    return iter(self.batches)

  def __len__(self):
    return 7

  def only(self, views):
    return Batches(*((v, b) for v, b in self.batches if v in views))

  def example(self, view):
    del view
    return "-"


def _run(*processes):
  """What each process is given."""
  turn, values = threading.Barrier(len(processes)), {}

  class Peers:
    count = len(processes)

    def __init__(self, index):
      self.index = index

    def gather(self, value):
      values[self.index] = value
      turn.wait(10)
      found = [values[i] for i in range(self.count)]
      turn.wait(10)
      return found

  with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
    return list(
      pool.map(
        lambda i, loader: list(Lockstep(loader, Peers(i))),
        itertools.count(),
        processes,
      )
    )


def test_one_that_has_fewer_or_none_gives_batches_of_no_weight():
  found = _run(Batches((0, "a"), (0, "b"), (0, "c")), Batches((0, "d")))
  assert found == [
    [(0, "a"), (0, "b"), (0, "c")],
    [(0, "d"), (0, "-"), (0, "-")],
  ]

  assert _run(Batches(), Batches((0, "a"))) == [[(0, "-")], [(0, "a")]]
  assert _run(Batches(), Batches()) == [[], []]


@pytest.mark.parametrize("seed", range(5))
def test_views_come_in_one_order_and_no_batch_is_lost(seed):
  rng = np.random.default_rng(seed)
  made = [
    [(int(rng.integers(3)), f"{i}.{k}") for k in range(rng.integers(6))]
    for i in range(3)
  ]
  found = _run(*(Batches(*each) for each in made))
  assert len({tuple(view for view, _ in each) for each in found}) == 1
  for each, own in zip(found, made, strict=True):
    assert [x for x in each if x[1] != "-"] == own
  assert len(found[0]) <= sum(map(len, made))


def test_the_rest_is_the_loaders():
  loader = Lockstep(Batches((0, "a"), (1, "b")), None)
  assert (loader.bad, len(loader), loader.example(0)) == ({3: "bad"}, 7, "-")
  assert loader.only([1]).loader.batches == ((1, "b"),)
