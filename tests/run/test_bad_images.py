"""train.py on a folder with images that cannot be decoded."""

import numpy as np
import pytest
from PIL import Image

from flexivit_jax.checkpoints import run_directory
from flexivit_jax.checkpoints.run_metrics import read_rows


@pytest.fixture
def folder(tmp_path):
  """Forty images of two classes, one of them torn."""
  rng = np.random.default_rng(0)
  for split, count in (("train", 16), ("test", 4)):
    for name in ("left", "right"):
      (tmp_path / split / name).mkdir(parents=True)
      for i in range(count):
        pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        path = tmp_path / split / name / f"{i:02}.png"
        Image.fromarray(pixels).save(path)
  torn = tmp_path / "train" / "left" / "07.png"
  torn.write_bytes(torn.read_bytes()[:300])
  return tmp_path, torn


def _on(folder, *overrides):
  return (
    "train.source.name=image_folder",
    f"train.source.path={folder}",
    "train.transforms=()",
    "validation=None",
    "test=None",
    "patch_size.choices=(12,)",
    "total_steps=12",
    "log_every=4",
    "save_every=4",
    "batch_size=8",
    *overrides,
  )


@pytest.mark.slow
def test_a_bad_image_ends_the_run_with_its_path(
  folder, here, small_config, tmp_path
):
  root, torn = folder
  workdir = tmp_path / "run"
  arguments = (*small_config(*_on(root)), f"--workdir={workdir}")
  done = here("train.py", *arguments)
  assert done.returncode == 1, (done.stdout, done.stderr)
  line, way_out = done.stderr.strip().splitlines()
  assert line.startswith(f"error: {torn}: cannot decode this image: ")
  assert way_out == (
    "mend it, or leave it out: --config.on_bad_image=skip of train.py, "
    "--on_bad_image=skip of evaluate.py and few-shot"
  )
  # The batches before it are kept, and the run can go on without it.
  (saved,) = run_directory.steps(workdir)
  done = here("train.py", *arguments, "--config.on_bad_image=skip")
  assert done.returncode == 0, done.stderr
  assert f"resuming after step {saved} of 12" in done.stdout
  assert f"skipped: {torn}: cannot decode" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_can_be_skipped(
  workers, folder, here, small_config, tmp_path
):
  root, torn = folder
  overrides = _on(root, "on_bad_image=skip", f"workers={workers}")
  workdir = tmp_path / "run"
  done = here("train.py", *small_config(*overrides), f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  named = [x for x in done.stdout.splitlines() if x.startswith("skipped: ")]
  (line,) = named
  assert line.startswith(f"skipped: {torn}: cannot decode this image: ")
  assert read_rows(workdir / "metrics.jsonl")[-1]["bad_images"] == 1


def test_too_many_bad_images_end_the_run(folder, here, small_config, tmp_path):
  root, torn = folder
  other = torn.with_name("08.png")
  other.write_bytes(b"")
  overrides = _on(root, "on_bad_image=skip")
  done = here(
    "train.py", *small_config(*overrides), f"--workdir={tmp_path / 'run'}"
  )
  assert done.returncode == 1, done.stderr
  first, *named = done.stderr.strip().splitlines()
  assert first == (
    "error: 2 of 32 images are bad, and on_bad_image.max_share (0.001) allows "
    "1: mend them, or raise it"
  )
  paths = sorted(line.split(":")[0].strip() for line in named)
  assert paths == sorted(map(str, (torn, other)))
