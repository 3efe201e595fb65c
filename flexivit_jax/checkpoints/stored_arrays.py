"""Trees of arrays on disk, by Orbax."""

import errno
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from flexivit_jax.checkpoints import shapes
from flexivit_jax.checkpoints.run_directory import silence

ARRAYS = "arrays"


# Names of sums of metrics since the last row.
NUMBERS = "running/"


MODEL = "model.json"


# The operating system's words for a full disk.
FULL = "No space left on device"


def save_model(
  directory: pathlib.Path, arrays: Mapping[str, Any], note: Mapping[str, Any]
) -> None:
  """Writes a model without a run: `arrays/` by Orbax, and `model.json`.

  Args:
    directory: that is there.
    arrays: {name: numpy array}.
    note: JSON.
  """
  silence()
  tree = ocp.tree.from_flat_dict(dict(arrays), sep="/")
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(directory.absolute() / ARRAYS, tree)
  except ValueError as e:  # TensorStore's, a page long
    if FULL not in str(e):
      raise
    raise OSError(errno.ENOSPC, FULL, str(directory)) from e
  (directory / MODEL).write_text(json.dumps(note, indent=2) + "\n")


def load_model(directory: pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays that `save_model` wrote, by name."""
  silence()
  path = directory.absolute() / ARRAYS
  with ocp.PyTreeCheckpointer() as checkpointer:
    tree = checkpointer.metadata(path).item_metadata.tree
    tree = restore_numpy(checkpointer, path, tree)
  return ocp.tree.to_flat_dict(tree, sep="/")


def restore_numpy(checkpointer, path, wanted):
  """Restores a tree of whatever, or placeholders, as numpy arrays."""
  args = jax.tree.map(
    lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), wanted
  )
  return checkpointer.restore(
    path, ocp.args.PyTreeRestore(item=wanted, restore_args=args)
  )


def restore_like(path, like: Mapping[str, Any]) -> Any:
  """The stored arrays in the structure of `like`, which must be as they are."""
  begun = _by_name(like)
  like = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.metadata(path).item_metadata.tree
    # Before a byte is read: Orbax would cast silently, and says no more than
    # one difference.
    stored, wanted = _by_name(tree), _by_name(like)
    # Numbers that an older program did not measure begin now.
    new = {
      name: x
      for name, x in begun.items()
      if name.startswith(NUMBERS) and name not in stored
    }
    wanted = {name: x for name, x in wanted.items() if name not in new}
    shapes.check_shapes(_params(stored), _params(wanted), path)
    shapes.check_shapes(stored, wanted, path)
    # In the stored tree's own structure: what holds no array, as optax's empty
    # states, may have another one in another version.
    restored = checkpointer.restore(
      path,
      jax.tree.unflatten(jax.tree.structure(tree), map(wanted.get, stored)),
    )
  arrays = _by_name(restored) | new
  return jax.tree.unflatten(
    jax.tree.structure(like), [arrays[name] for name in begun]
  )


def _by_name(tree) -> dict[str, Any]:
  """{"state/params/cls": leaf}, in the order of the leaves."""
  name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {name(path): leaf for path, leaf in leaves}


def _params(flat):
  """Under the model's own names, which the error's hints are about."""
  prefix = "state/params/"
  return {
    name.removeprefix(prefix): x
    for name, x in flat.items()
    if name.startswith(prefix)
  }
