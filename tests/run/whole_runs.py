"""Whole runs of tests/runs.py: their config, and how to compare two of them."""

import json
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

from flexivit_jax.checkpoints.run_metrics import read_rows
from flexivit_jax.config import build
from tests import runs


def experiment(name, *overrides):
  """The experiment of a run without a teacher, with some values changed."""
  config, own = runs.RUNS[name]
  path = runs.ROOT / "configs" / config
  return build.load(str(path), (*runs.COMMON, *own, *overrides))


def arguments(name, workdir, *overrides, teacher=None):
  """Arguments of train.py for a run."""
  config, own = runs.RUNS[name]
  overrides = [f"--config.{x}" for x in (*runs.COMMON, *own, *overrides)]
  config = config.replace("TEACHER", str(teacher))
  return (f"--config=configs/{config}", *overrides, f"--workdir={workdir}")


def arrays(workdir, step):
  """{path: array} of a checkpoint; `state/params/head/kernel` is a path."""
  path = workdir / "checkpoints" / str(step) / "arrays"
  with ocp.PyTreeCheckpointer() as checkpointer:
    tree = checkpointer.metadata(path).item_metadata.tree
    as_numpy = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree
    )
    found = checkpointer.restore(
      path, ocp.args.PyTreeRestore(item=tree, restore_args=as_numpy)
    )
  return by_path(found)


def by_path(tree):
  """{path: leaf}, equal for a state and for its checkpoint."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x)
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


def rows(workdir):
  """Rows of metrics.jsonl without the speeds."""
  return [
    {k: v for k, v in row.items() if not k.startswith("speed/")}
    for row in read_rows(workdir / "metrics.jsonl")
  ]


def assert_same(found, expected, error=0.0):
  """{path: array} equal, or all as close as `error`."""
  assert found.keys() == expected.keys()
  for name, x in expected.items():
    if error:
      np.testing.assert_allclose(
        found[name], x, rtol=0, atol=error, err_msg=name
      )
    else:
      np.testing.assert_array_equal(found[name], x, err_msg=name)


def assert_same_end(workdir, other, step):
  """Bit for bit the same last checkpoint, the same rows and pictures."""
  assert_same(arrays(workdir, step), arrays(other, step))
  assert rows(workdir) == rows(other)
  assert pictures(workdir) == pictures(other)


def pictures(workdir):
  return {p.name: p.read_bytes() for p in workdir.glob("pictures/*.png")}


def last_row(workdir):
  found = read_rows(workdir / "metrics.jsonl")
  return found[-1]["step"] if found else 0


def in_mid_pack(workdir, step):
  path = workdir / "checkpoints" / str(step) / "progress.json"
  return json.loads(path.read_text())["loader"]["packer"]["next_row"] > 0


def wait_for(happened, *processes, seconds=300):
  """Returns when it has happened, while all processes live."""
  deadline = time.monotonic() + seconds
  while not happened():
    ended = [p for p in processes if p.poll() is not None]
    if ended or time.monotonic() > deadline:
      for process in processes:
        process.kill()
      said = [(p.args, p.communicate()) for p in ended or processes]
      raise AssertionError(f"it has not happened: {said}")
    time.sleep(0.005)
