"""The main job as a user runs it, and its baseline. Minutes, so slow."""

import json

import pytest

pytestmark = pytest.mark.slow
SIZES = ("4", "6", "8", "12")


def _top1(command, config, workdir):
  done = command("train.py", f"--config={config}", f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  done = command(
    "evaluate.py",
    f"--checkpoint={workdir}",
    f"--patch_sizes={','.join(SIZES)}",
    f"--output={workdir}/eval",
  )
  assert done.returncode == 0, done.stderr
  results = json.loads((workdir / "eval" / "results.json").read_text())
  return {
    size: 100 * point["top1"]
    for size, point in zip(SIZES, results["points"], strict=True)
  }


def test_one_checkpoint_holds_at_every_size_and_a_plain_vit_does_not(
  command, tmp_path
):
  flexible = _top1(command, "configs/flexivit_digits.py", tmp_path / "flexi")
  fixed = _top1(command, "configs/vit_digits.py", tmp_path / "fixed")
  # Three seeds gave 97 to 99 % at every size (docs/results.md); one seed of
  # 500 images has a standard deviation below 1 %.
  assert min(flexible.values()) >= 95, flexible
  assert fixed["6"] >= 95, fixed
  for size in ("4", "8", "12"):
    assert fixed[size] <= flexible[size] - 30, (size, fixed, flexible)
