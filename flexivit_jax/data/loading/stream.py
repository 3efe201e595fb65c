"""Ordered read-ahead of a sequence by threads and worker processes."""

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grain
from absl import flags

from flexivit_jax.core.errors import Fault

# How long Grain may take to tell of a dead worker itself, in seconds.
PATIENCE_S = 30.0


class WorkerError(Fault):
  """A process that loads data ended by itself."""


class Stream(Iterator):
  """Reads `sequence[position:]`, ahead of what is asked for.

  Args:
    sequence: with random access; workers get a copy of it.
    workers: processes that load; 0 loads in this process.
    threads: that load in each process; 0 loads when asked.

  Attributes:
    position: of the next element.
  """

  def __init__(self, sequence: Sequence[Any], *, workers: int, threads: int):
    self._sequence = sequence
    self._workers = workers
    self._threads = threads
    self._next = None
    self._close = None
    self.position = 0

  def __next__(self):
    if self._next is None:
      self._open()
    try:
      element = self._next()
    except BaseException as e:
      if not self._workers:
        self.close()  # an interrupted wait may have lost an element
      elif isinstance(e, RuntimeError) and "Worker process" in str(e):
        raise WorkerError(self._lost(e)) from e  # Grain's own words
      raise
    self.position += 1
    return element

  def _lost(self, reason) -> str:
    return (
      f"a data worker was lost: {reason} (-9 is mostly a lack of memory: lower "
      f"config.workers, {self._workers} now, or config.threads)"
    )

  def _open(self):
    dataset = grain.MapDataset.source(self._sequence)[self.position :]
    dataset = dataset.to_iter_dataset(read_options(self._threads))
    if not self._workers:
      iterator = iter(dataset)
      self._next, self._close = iterator.__next__, iterator.close
      return
    # Grain reads an absl flag, which is parsed in absl's own mains only.
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=self._workers)
    watch = _Watch(dataset.mp_prefetch(options), self._lost)
    self._next, self._close = watch.next, watch.close

  def seek(self, position: int) -> None:
    """Makes another element the next one."""
    self.close()
    self.position = position

  def close(self) -> None:
    """Ends the workers; the next element would start them again."""
    if self._close is not None:
      self._close()
    self._next = self._close = None


def read_options(threads: int) -> grain.ReadOptions:
  # The buffer holds whole elements: one for each thread, no more.
  return grain.ReadOptions(
    num_threads=threads, prefetch_buffer_size=max(1, threads)
  )


class _Watch:
  """Waits for elements in a thread, and for the workers in this one.

  A worker that is killed while it holds a lock of Grain's makes Grain wait for
  that lock for ever, also when it closes the others.

  Args:
    lost: makes the text of a WorkerError.
  """

  def __init__(self, dataset: grain.IterDataset, lost):
    self._iterator = iter(dataset)
    self._lost = lost
    self._processes = set()
    self._before = set(multiprocessing.active_children())
    self._requests, self._results = queue.SimpleQueue(), queue.SimpleQueue()
    self._asked = False
    arguments = self._iterator, self._requests, self._results
    threading.Thread(target=_serve, args=arguments, daemon=True).start()

  def next(self):
    if not self._asked:  # an interruption may have left an answer to come
      self._requests.put(True)
      self._asked = True
    dead_since = None
    while True:
      try:
        element, error = self._results.get(timeout=1.0)
        break
      except queue.Empty:
        self._processes |= self._children()
        codes = [p.exitcode for p in self._processes if p.exitcode]
        if not codes:
          continue
        dead_since = dead_since or time.monotonic()
        if time.monotonic() - dead_since > PATIENCE_S:
          self._kill()
          reason = f"it ended with exit code {codes[0]}, holding a lock"
          raise WorkerError(self._lost(reason)) from None
    self._asked = False
    if not self._processes:
      self._processes = self._children()
    if error is not None:
      raise error
    return element

  def _children(self):
    return set(multiprocessing.active_children()) - self._before

  def _kill(self):
    for process in self._processes:
      if process.exitcode is None:
        os.kill(process.pid, signal.SIGKILL)
    self._iterator = None  # to close it is to wait for the lock

  def close(self):
    self._requests.put(False)
    if self._iterator is not None:
      self._iterator.close()


def _serve(iterator, requests, results):
  while requests.get():
    try:
      results.put((next(iterator), None))
    except BaseException as e:  # told where it was asked
      results.put((None, e))
