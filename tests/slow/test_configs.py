"""Every recipe trains a few steps, made small, on real files."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from configs import _recipe
from flexivit_jax.checkpoints.run_metrics import read_rows

# The smallest run of each recipe: enough to go through every part of it.
TINY = (
  "--config.model.size=mu",
  "--config.batch_size=8",
  "--config.eval_batch_size=8",
  "--config.total_epochs=None",
  "--config.total_steps=3",
  "--config.eval_every=2",
  "--config.save_every=2",
  "--config.log_every=1",
  "--config.optimizer.schedule.warmup_steps=1",
)

# CIFAR-10 itself is not at hand: these have its size.
CIFAR = (
  "--config.train.source={'name':'digits','split':'train[2%:]','side':32}",
  "--config.validation.source={'name':'digits','split':'train[:2%]','side':32}",
  "--config.test.source={'name':'digits','split':'test','side':32}",
)

RECIPES = {
  # All its sizes: tests/slow/test_main_job.py.
  "flexivit_digits": ("--config.patch_size.choices=(4,12)",),
  "vit_digits": (),
  "vit_digits:8": (),
  "flexivit_folder:FOLDER": ("--config.patch_size.choices=(48,24)",),
  "vit_s16_i1k:FOLDER": (
    "--config.workers=0",
    "--config.test.source.split=test",
  ),
  "flexivit_digits_distill:TEACHER": (
    "--config.task.teacher.patch_size=6",
    "--config.init_from=None",
  ),
  "navit_digits": (),
  "navit_folder:FOLDER": (),
  "flexi_navit_digits": (),
  "pit_digits": (),
  "pit_digits:16": (
    "--config.patch_size.size=2",
    "--config.model.kernel_hw=(2,2)",
  ),
  "pit_cifar:28": CIFAR,
  "long_digits": (
    "--config.mesh.seq=1",
    "--config.train.source.side=12",
    "--config.validation.source.side=12",
    "--config.test.source.side=12",
    "--config.model.position.size=(12,12)",
  ),
}

# Small by themselves.
SMOKE = (
  *("vit_s16_i1k", "flexivit_s_i1k", "flexivit_b_i1k", "flexivit_l_i1k"),
  *("flexivit_b_i21k", "flexivit_b_i21k,distilled", "navit_b16"),
  *("pix2struct_finetune", "pit_cifar100", "pit_in1k", "pit_trend"),
  *("finetune", "linear_probe", "flexivit_cifar", "flexivit_cifar,4"),
  *("pit_224", "flexivit_b4_1024", "hybrid_digits"),
  *("mae_digits", "mae_cifar", "pit_mae_cifar", "pit_mae_cifar,2"),
)

# Whose tasks give no classes.
NO_CLASSES = ("mae_digits", "mae_cifar", "pit_mae_cifar", "pit_mae_cifar,2")


# The same, whose runs are sampled and not evaluated.
DIFFUSION = ("dit_digits", "dit_cifar", "pit_dit_cifar")


DISTILLED = (
  *("flexivit_s_i1k", "flexivit_b_i1k", "flexivit_l_i1k"),
  "flexivit_b_i21k,distilled",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Three classes of JPEGs of different shapes, in train, test and val."""
  root = tmp_path_factory.mktemp("images")
  rng = np.random.default_rng(0)
  for split, count in (("train", 40), ("test", 2), ("val", 2)):
    for label in range(3):
      directory = root / split / f"class{label}"
      directory.mkdir(parents=True)
      for i in range(count):
        h, w = rng.integers(30, 90, 2)
        coarse = rng.integers(0, 256, (4, 4, 3), np.uint8)
        image = Image.fromarray(coarse).resize((int(w), int(h)))
        image.save(directory / f"{i}.jpg")
  return root


# Whose parts the others have.
SLOW = (
  "flexivit_digits",
  "long_digits",
  "vit_digits",
  "navit_digits",
  "navit_folder:FOLDER",
  "vit_digits:8",
  "vit_s16_i1k:FOLDER",
  "pit_digits",
  "pit_digits:16",
  "flexi_navit_digits",
  "flexivit_digits_distill:TEACHER",
  "flexivit_folder:FOLDER",
  "pit_cifar:28",
)


@pytest.mark.parametrize(
  "recipe",
  [
    pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
    for name in RECIPES
  ],
)
def test_recipe_trains_and_evaluates(recipe, command, folder, tmp_path):
  name, colon, argument = recipe.partition(":")
  config = f"configs/{name}.py{colon}{argument}"
  done = command(
    "train.py",
    f"--config={with_files(config, folder)}",
    *TINY,
    *RECIPES[recipe],
    f"--workdir={tmp_path}",
  )
  assert done.returncode == 0, done.stderr
  rows = read_rows(tmp_path / "metrics.jsonl")
  assert [r["step"] for r in rows if "loss" in r] == [1, 2, 3]
  assert all(np.isfinite(r["loss"]) for r in rows if "loss" in r)
  evaluated = command("evaluate.py", f"--checkpoint={tmp_path}")
  assert evaluated.returncode == 0, evaluated.stderr
  assert "top-1" in evaluated.stdout


def with_files(config, folder):
  config = config.replace("FOLDER", str(folder))
  if "TEACHER" in config:
    config = config.replace("TEACHER", _recipe.smoke_checkpoint())
  return config


def test_no_recipe_is_left_out():
  configs = pathlib.Path(__file__).parents[2] / "configs"
  names = {recipe.partition(":")[0] for recipe in RECIPES}
  names |= {recipe.partition(",")[0] for recipe in (*SMOKE, *DIFFUSION)}
  assert {path.stem for path in configs.glob("[!_]*.py")} == names


@pytest.mark.parametrize(
  "recipe", [pytest.param(name, marks=pytest.mark.slow) for name in SMOKE]
)
def test_recipe_runs_on_embedded_data(recipe, command, tmp_path):
  name, comma, more = recipe.partition(",")
  config = f"configs/{name}.py:smoke{comma}{more}"
  done = command("train.py", f"--config={config}", f"--workdir={tmp_path}")
  assert done.returncode == 0, done.stderr
  rows = read_rows(tmp_path / "metrics.jsonl")
  assert [r["step"] for r in rows if "loss" in r] == [1, 2, 3]
  assert all(np.isfinite(r["loss"]) for r in rows if "loss" in r)
  # Two models that answer alike, or a head of zeros, would show nothing: such
  # have norms of 1e-7. Those of a dozen classes begin at a loss of 1 or more.
  assert all(r["gradient_norm"] > 1e-3 for r in rows if "loss" in r)
  assert all(r["distance"] > 1e-4 for r in rows if "distance" in r)
  assert ("distance" in rows[0]) == (recipe in DISTILLED)
  evaluated = command("evaluate.py", f"--checkpoint={tmp_path}")
  if recipe in NO_CLASSES:
    assert evaluated.returncode == 2
    assert "its task gives no classes" in evaluated.stderr
    return
  assert evaluated.returncode == 0, evaluated.stderr
  assert "top-1" in evaluated.stdout


@pytest.mark.parametrize(
  "recipe", [pytest.param(name, marks=pytest.mark.slow) for name in DIFFUSION]
)
def test_recipe_of_diffusion_trains_and_is_sampled(recipe, command, tmp_path):
  config = f"configs/{recipe}.py:smoke"
  done = command("train.py", f"--config={config}", f"--workdir={tmp_path}")
  assert done.returncode == 0, done.stderr
  rows = read_rows(tmp_path / "metrics.jsonl")
  losses = [r["loss"] for r in rows if "loss" in r]
  # Normal noise that nothing is known of has a mean square of 1; the velocity
  # of half black digits has one not far from it.
  assert len(losses) == 3
  assert 0.5 < min(losses) < max(losses) < 1.5
  (picture,) = (tmp_path / "pictures").glob("00000003_*.png")
  assert Image.open(picture).size[0] > 8 * 64
  sampled = command(
    *("-m", "flexivit_jax.cli.sample", f"--checkpoint={tmp_path}"),
    *(f"--output={tmp_path}", "--count=2", "--steps=2", "--classes=1,9"),
  )
  assert sampled.returncode == 0, sampled.stderr
  found = np.load(tmp_path / "samples.npz")
  assert found["images"].shape == (4, 8, 8, 3)
  assert found["labels"].tolist() == [1, 1, 9, 9]


def test_a_recipe_that_needs_a_folder_says_so(here, tmp_path):
  done = here(
    "train.py", "--config=configs/flexivit_folder.py", f"--workdir={tmp_path}"
  )
  assert done.returncode == 2
  assert done.stderr == (
    "error: configs/flexivit_folder.py needs its path_and_size: --config "
    "configs/flexivit_folder.py:PATH\n"
  )
