"""Checkpoints of our own runs, by Orbax: asynchronous and atomic.

A run's directory holds `checkpoints/STEP/` with the items `state` (the
training state), `running` (metrics since the last log) and `progress` (JSON).
The Orbax v0 API stays behind this module.
"""

import logging
import operator
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

DIRECTORY = "checkpoints"


class Checkpoints:
  """The checkpoints of one run.

  Args:
    workdir: of the run.
    keep: how many of the latest to keep; the best is kept besides.
    score: name of the score that says which is best (higher is better); None:
      there are no scores.
  """

  def __init__(self, workdir, *, keep: int = 2, score: str | None = None):
    _silence()
    policies: list[managers.PreservationPolicy] = [managers.LatestN(keep)]
    best_fn = None
    if score is not None:
      best_fn = operator.itemgetter(score)
      policies.append(
        managers.BestN(
          get_metric_fn=best_fn, n=1, keep_checkpoints_without_metrics=False
        )
      )
    self._manager = ocp.CheckpointManager(
      pathlib.Path(workdir).absolute() / DIRECTORY,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=managers.AnyPreservationPolicy(policies),
        # Not needed by the policy, but without it metrics are not written.
        best_fn=best_fn,
        cleanup_tmp_directories=True,
      ),
    )

  def latest(self) -> int | None:
    """The last finished step, or None."""
    return self._manager.latest_step()

  def save(
    self,
    step: int,
    arrays: Mapping[str, Any],
    progress: Mapping[str, Any],
    scores: Mapping[str, float] | None = None,
  ) -> None:
    """Starts a save; returns once the arrays may be donated.

    Args:
      arrays: item name to tree of arrays; "state" is the training state.
      progress: JSON.
      scores: of this step's evaluation, if there was one.
    """
    items = {k: ocp.args.StandardSave(v) for k, v in arrays.items()}
    items["progress"] = ocp.args.JsonSave(dict(progress))
    self._manager.save(step, args=ocp.args.Composite(**items), metrics=scores)

  def restore(
    self, step: int, like: Mapping[str, Any]
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays and progress of a step.

    Args:
      like: the arrays' items, as arrays that say shape, dtype and sharding.
    """
    items = {
      name: ocp.args.StandardRestore(
        jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
      )
      for name, tree in like.items()
    }
    items["progress"] = ocp.args.JsonRestore()
    restored = self._manager.restore(step, args=ocp.args.Composite(**items))
    return {name: restored[name] for name in like}, restored["progress"]

  def close(self) -> None:
    """Waits for saves under way."""
    self._manager.close()


def _silence():
  # Orbax logs every save, and a warning for each without a score.
  logging.getLogger("absl").setLevel(logging.ERROR)


def steps(workdir) -> dict[int, dict[str, float] | None]:
  """Finished steps of a run, with the scores of those that have them."""
  _silence()
  directory = pathlib.Path(workdir).absolute() / DIRECTORY
  if not directory.is_dir():
    return {}
  with ocp.CheckpointManager(
    directory, options=ocp.CheckpointManagerOptions(read_only=True)
  ) as manager:
    return {step: manager.metrics(step) for step in manager.all_steps()}


def load_params(workdir, step: int) -> dict[str, Any]:
  """The parameters of a step, as numpy arrays, without the optimiser's."""
  directory = pathlib.Path(workdir).absolute() / DIRECTORY
  item = directory / str(step) / "state"
  with ocp.PyTreeCheckpointer() as checkpointer:
    tree = checkpointer.metadata(item).item_metadata.tree
    wanted = jax.tree.map(lambda _: ocp.PLACEHOLDER, tree)
    wanted["params"] = jax.tree.map(lambda _: 0, tree["params"])
    args = jax.tree.map(
      lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), wanted
    )
    return checkpointer.restore(
      item, ocp.args.PyTreeRestore(item=wanted, restore_args=args)
    )["params"]
