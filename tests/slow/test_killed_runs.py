"""kill -9: each kind of run, resumed, ends as if nothing had happened."""

import pytest

from flexivit_jax.checkpoints import run_directory
from tests import runs
from tests.run import whole_runs

pytestmark = pytest.mark.slow

TOTAL = 48
LONG = (
  *(f"total_steps={TOTAL}", "eval_every=24", "save_every=4", "log_every=3"),
  *("keep=30", "ema=0.99"),
)
# Microbatches, dropout and a worker; packed rows that overflow, of which
# ten stay open and eight make a batch, so that most states are in mid-pack.
OWN = dict.fromkeys(runs.RUNS, ("workers=1", "accumulate=2")) | {
  "labels": ("workers=1", "accumulate=2", "model.dropout=0.1"),
  "packed": (
    *("workers=2", "packing.open_rows=10", "packing.max_images=4"),
    *("packing.loss=sum", "packing.overflow=drop"),
  ),
}


@pytest.mark.parametrize("name", runs.RUNS)
def test_killed_and_resumed_equals_uninterrupted(
  name, command, trained, tmp_path
):
  teacher = trained("labels") if name == "distilled" else None

  def start(workdir, *overrides, **kwargs):
    overrides = (*LONG, *OWN[name], *overrides)
    arguments = whole_runs.arguments(name, workdir, *overrides, teacher=teacher)
    return command("train.py", *arguments, **kwargs)

  def far_enough():
    steps = run_directory.steps(cut)
    return (
      steps
      and steps[-1] >= 8
      and (name != "packed" or whole_runs.in_mid_pack(cut, steps[-1]))
    )

  whole, cut = tmp_path / "whole", tmp_path / "cut"
  done = start(whole)
  assert done.returncode == 0, done.stderr
  first, last = whole_runs.arrays(whole, 8), whole_runs.arrays(whole, TOTAL)
  assert any((first[name] != x).any() for name, x in last.items())
  process = start(cut, wait=False)
  whole_runs.wait_for(far_enough, process)
  process.kill()
  process.communicate(timeout=120)  # workers hold the pipes until they end
  saved = run_directory.steps(cut)[-1]
  assert saved < TOTAL
  # Batches do not depend on the number of workers.
  done = start(cut, "workers=0")
  assert (done.returncode, done.stderr) == (0, "")
  assert f"resuming after step {saved} of {TOTAL}" in done.stdout
  whole_runs.assert_same_end(cut, whole, TOTAL)
