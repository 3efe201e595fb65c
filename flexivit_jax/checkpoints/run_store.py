"""A run's own checkpoints: arrays by Orbax, checksums, and the best one.

A run's directory holds `checkpoints/STEP/` with `arrays/` (Orbax; the items of
the saved tree), `progress.json` (where the run was) and `manifest.sha256`. A
step is written as `STEP.unfinished` and renamed when all of it is there, so
that a directory with a number for a name is always whole.
"""

import concurrent.futures
import contextlib
import errno
import json
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from flexivit_jax.checkpoints import atomic, manifest
from flexivit_jax.checkpoints.run_directory import (
  CheckpointError,
  check_shared,
  check_space,
  directory_of,
  lock,
  num_bytes,
  silence,
  steps,
)
from flexivit_jax.checkpoints.stored_arrays import (
  ARRAYS,
  FULL,
  restore_like,
  restore_numpy,
)
from flexivit_jax.core.text import format_bytes
from flexivit_jax.devices.processes import ALONE, Processes

PROGRESS = "progress.json"


class Restored(NamedTuple):
  """What a checkpoint held: step, item name to tree of arrays, and JSON."""

  step: int
  arrays: dict[str, Any]
  progress: dict[str, Any]


class Checkpoints:
  """The checkpoints of a run, for the processes that write them.

  Each writes and reads the arrays that its devices hold; the rest is the first
  process's alone.

  Args:
    workdir: of the run.
    keep: how many of the latest to keep.
    peers: the processes of the run.

  Raises:
    CheckpointError: another run writes checkpoints there, or the processes do
      not have the same directory.
  """

  def __init__(self, workdir, *, keep: int = 2, peers: Processes = ALONE):
    silence()
    self._peers = peers
    self._directory = directory_of(workdir)
    self._lock = None
    if self._is_first:
      self._directory.mkdir(parents=True, exist_ok=True)
      self._lock = lock(self._directory / "lock")
    if peers.count > 1:
      check_shared(self._directory, peers)
    self._keep = keep
    self._writer = ocp.StandardCheckpointer()
    self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1)
    self._finishing: concurrent.futures.Future | None = None
    self._failed = False
    for suffix in ("unfinished", "removed"):
      for left_over in self._directory.glob(f"*.{suffix}"):
        if self._is_first:
          shutil.rmtree(left_over)

  @property
  def _is_first(self):
    return self._peers.index == 0

  def _agree(self, ask: Callable[[], Any]) -> Any:
    """What the first process answers, JSON; only that one asks."""
    return self._peers.gather(ask() if self._is_first else None)[0]

  def save(
    self,
    step: int,
    arrays: Mapping[str, Any],
    progress: Mapping[str, Any],
    best: int | None = None,
  ) -> None:
    """Starts a save; returns once the arrays may be donated.

    Writing, checksums and the removal of older steps go on in a thread. A step
    that is there already is left as it is.

    Args:
      arrays: item name to tree of arrays; "state" is the training state.
      progress: JSON.
      best: a step to keep besides the latest.

    Raises:
      CheckpointError: the disk is full, or the save before this one failed.
    """
    self.wait()
    wanted = num_bytes(arrays)

    def begin():
      if step in steps(self._directory.parent):
        return False
      check_space(self._directory, wanted, f"the checkpoint of step {step}")
      try:
        path.mkdir()
      except OSError as e:
        raise self._failure(step, e) from e
      return True

    path = self._directory / f"{step}.unfinished"
    if not self._agree(begin):
      return
    try:
      self._writer.save(path / ARRAYS, dict(arrays))
    except Exception as e:
      raise self._failure(step, e) from e
    self._finishing = self._thread.submit(
      self._finish, step, json.dumps(progress), best
    )

  def _finish(self, step, progress, best):
    path = self._directory / f"{step}.unfinished"
    try:
      self._writer.wait_until_finished()
      if not self._is_first:
        return
      (path / PROGRESS).write_text(progress)
      manifest.write(path)
      path.rename(self._directory / str(step))
      atomic.sync(self._directory)
      for old in steps(self._directory.parent)[: -self._keep]:
        if old != best:
          self._remove(old)
    except Exception as e:
      raise self._failure(step, e) from e

  def _remove(self, step):
    # Renamed first: what is half removed must not look whole.
    removed = self._directory / f"{step}.removed"
    (self._directory / str(step)).rename(removed)
    shutil.rmtree(removed)

  def _failure(self, step, error) -> CheckpointError:
    self._failed = True
    path = self._directory / f"{step}.unfinished"
    if self._is_first:
      shutil.rmtree(path, ignore_errors=True)  # gives its space back
    free = shutil.disk_usage(self._directory).free
    good = steps(self._directory.parent)
    last = f"step {good[-1]} is the last whole one" if good else "there is none"
    reason = str(error).strip().splitlines() or [type(error).__name__]
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if full or FULL in str(error):
      reason = ["the disk is full"]
    return CheckpointError(
      f"cannot write the checkpoint of step {step}: {reason[0][:200]}\n"
      f"{path.parent} has {format_bytes(free)} free; {last}\n"
      "mend that, and the same command goes on from there"
    )

  def restore(
    self, like: Mapping[str, Any], report: Callable[[str], None]
  ) -> Restored | None:
    """The last step that is undamaged; None: nothing was saved yet.

    Args:
      like: the arrays' items, as arrays that say shape, dtype and sharding;
        of those under "running" that were not saved, their values.
      report: called with a text for each damaged step, which is put aside.

    Raises:
      CheckpointError: every step is damaged.
      ValueError: the arrays are not like those that are wanted.
    """
    self.wait()
    step = self._agree(lambda: self._last_whole(report))
    if step is None:
      return None
    path = self._directory / str(step)
    arrays = restore_like(path / ARRAYS, dict(like))
    progress = json.loads((path / PROGRESS).read_text())
    return Restored(step, arrays, progress)

  def _last_whole(self, report) -> int | None:
    found = steps(self._directory.parent)
    damaged = {}
    for step in reversed(found):
      damage = manifest.damage(self._directory / str(step))
      if damage is None:
        # Only now: where none is whole, the next start must find them too.
        for other, what in damaged.items():
          report(self._put_aside(other, what))
        return step
      damaged[step] = damage
    if damaged:
      raise CheckpointError(
        f"none of the {len(damaged)} checkpoints in {self._directory} is "
        f"whole: {damaged[found[-1]]}\nrestore them from a copy, or start anew "
        "in another --workdir"
      )
    return None

  def _put_aside(self, step, damage) -> str:
    path = self._directory / str(step)
    aside = path.with_suffix(".damaged")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    return (
      f"the checkpoint of step {step} is damaged: {damage}\n"
      f"it was put aside as {aside}"
    )

  def wait(self) -> None:
    """Waits for the save under way; raises what it raised."""
    if self._finishing is not None:
      finishing, self._finishing = self._finishing, None
      finishing.result()

  def close(self) -> None:
    """Waits for the save under way, and lets other processes write."""
    try:
      self.wait()
    finally:
      self._thread.shutdown()
      # After a failure, the writer would raise the same again as it is closed.
      with contextlib.suppress(*[Exception] * self._failed):
        self._writer.close()
      if self._lock is not None:
        self._lock.close()


class Parameters(NamedTuple):
  """Nested dicts of numpy arrays, and whether they are a moving average."""

  params: dict[str, Any]
  is_average: bool


def load_params(workdir, step: int, *, ema: bool = True) -> Parameters:
  """The parameters of a step, without the optimiser's state.

  Args:
    ema: their moving average instead, where the run kept one.

  Raises:
    CheckpointError: the step is damaged.
  """
  silence()
  path = directory_of(workdir) / str(step)
  damage = manifest.damage(path)
  if damage is not None:
    others = [str(s) for s in steps(workdir) if s != step]
    instead = f"; others: --step {', '.join(others)}" if others else ""
    raise CheckpointError(
      f"the checkpoint of step {step} is damaged: {damage}{instead}"
    )
  with ocp.PyTreeCheckpointer() as checkpointer:
    tree = checkpointer.metadata(path / ARRAYS).item_metadata.tree
    wanted = jax.tree.map(lambda _: ocp.PLACEHOLDER, tree)
    # Runs of earlier versions do not know of an average.
    item = "ema" if ema and tree["state"].get("ema") else "params"
    wanted["state"][item] = jax.tree.map(lambda _: 0, tree["state"][item])
    restored = restore_numpy(checkpointer, path / ARRAYS, wanted)
  return Parameters(restored["state"][item], item == "ema")
