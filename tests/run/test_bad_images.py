"""train.py on a folder with images that cannot be decoded."""

import numpy as np
import pytest
from PIL import Image

from flexivit_jax.checkpoints import run_directory
from tests.run import whole_runs


@pytest.fixture
def folder(tmp_path):
  """Forty images of two classes, one of them torn; and the torn one."""
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


@pytest.fixture
def run(folder, here, small_config, tmp_path):
  def start(*overrides):
    overrides = (
      f"train.source={{'name':'image_folder','path':'{folder[0]}'}}",
      *("train.transforms=()", "validation=None", "test=None"),
      *("patch_size.choices=(12,)", "batch_size=8"),
      *("total_steps=12", "log_every=4", "save_every=4"),
      *overrides,
    )
    workdir = tmp_path / "run"
    done = here("train.py", *small_config(*overrides), f"--workdir={workdir}")
    return done, workdir

  return start


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_ends_the_run_or_is_skipped(workers, folder, run):
  torn, workers = folder[1], f"workers={workers}"
  done, workdir = run(workers)
  assert done.returncode == 1, (done.stdout, done.stderr)
  line, way_out = done.stderr.strip().splitlines()
  assert line.startswith(f"error: {torn}: cannot decode this image: ")
  assert "--config.on_bad_image=skip" in way_out
  # The batches before it are kept, and the run can go on without it.
  (saved,) = run_directory.steps(workdir)
  done, _ = run(workers, "on_bad_image=skip")
  assert done.returncode == 0, done.stderr
  assert f"resuming after step {saved} of 12" in done.stdout
  (line,) = [x for x in done.stdout.splitlines() if x.startswith("skipped: ")]
  assert line.startswith(f"skipped: {torn}: cannot decode this image: ")
  assert whole_runs.rows(workdir)[-1]["bad_images"] == 1


def test_too_many_bad_images_end_the_run(folder, run):
  other = folder[1].with_name("08.png")
  other.write_bytes(b"")
  done, _ = run("on_bad_image=skip")
  assert done.returncode == 1, done.stderr
  first, *named = done.stderr.strip().splitlines()
  assert first.startswith(
    "error: 2 of 32 images are bad, and on_bad_image.max_share (0.001) allows 1"
  )
  paths = sorted(line.split(":")[0].strip() for line in named)
  assert paths == sorted(map(str, (folder[1], other)))
