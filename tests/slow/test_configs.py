"""Every recipe trains a few steps, made small, on real files."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from tests import runs
from tests.run import whole_runs

# The smallest run of each recipe: enough to go through every part of it.
TINY = (
  *("model.size=mu", "batch_size=8", "eval_batch_size=8", "log_every=1"),
  *("total_epochs=None", "total_steps=3", "eval_every=2", "save_every=2"),
  "optimizer.schedule.warmup_steps=1",
)
DATA = {"train": "train[2%:]", "validation": "train[:2%]", "test": "test"}
RECIPES = {
  "flexivit_folder:FOLDER": ("patch_size.choices=(48,24)",),
  "navit_folder:FOLDER": (),
  "flexi_navit_digits": (),
  "pit_digits": (),
  # CIFAR-10 itself is not at hand: these have its size.
  "pit_cifar:28": [
    f"{name}.source={{'name':'digits','split':'{split}','side':32}}"
    for name, split in DATA.items()
  ],
  "long_digits": (
    *("mesh.seq=1", "model.position.size=(12,12)"),
    *(f"{name}.source.side=12" for name in DATA),
  ),
}
# Small by themselves.
SMOKE = (
  *("vit_s16_i1k", "flexivit_s_i1k", "flexivit_b_i1k", "flexivit_l_i1k"),
  *("flexivit_b_i21k", "flexivit_b_i21k,distilled", "navit_b16"),
  *("pix2struct_finetune", "pit_cifar100", "pit_in1k", "pit_trend"),
  *("finetune", "linear_probe", "flexivit_cifar", "pit_224"),
  *("flexivit_b4_1024", "hybrid_digits"),
  *("mae_digits", "mae_cifar", "pit_mae_cifar"),
)
DISTILLED = (
  *("flexivit_s_i1k", "flexivit_b_i1k", "flexivit_l_i1k"),
  "flexivit_b_i21k,distilled",
)
# The same, whose runs are sampled and not evaluated.
DIFFUSION = ("dit_digits", "dit_cifar", "pit_dit_cifar")
# Trained by tests/slow/test_main_job.py.
MAIN_JOB = ("flexivit_digits", "vit_digits")


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


@pytest.fixture
def trained_rows(command, tmp_path):
  """Trains a config for three steps; returns the rows with a loss."""

  def run(config, *overrides):
    given = [f"--config.{x}" for x in overrides]
    arguments = (f"--config=configs/{config}", *given)
    done = command("train.py", *arguments, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    rows = [r for r in whole_runs.rows(tmp_path) if "loss" in r]
    assert [r["step"] for r in rows] == [1, 2, 3]
    assert all(np.isfinite(r["loss"]) for r in rows)
    return rows

  return run


def assert_evaluates(command, workdir):
  done = command("evaluate.py", f"--checkpoint={workdir}")
  assert done.returncode == 0, done.stderr
  assert "top-1" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_trains_and_evaluates(
  recipe, trained_rows, command, folder, tmp_path
):
  name, colon, argument = recipe.partition(":")
  config = f"{name}.py{colon}{argument}".replace("FOLDER", str(folder))
  trained_rows(config, *TINY, *RECIPES[recipe])
  assert_evaluates(command, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", SMOKE)
def test_recipe_runs_on_embedded_data(recipe, trained_rows, command, tmp_path):
  name, comma, more = recipe.partition(",")
  rows = trained_rows(f"{name}.py:smoke{comma}{more}")
  # Two models that answer alike, or a head of zeros, would show nothing: such
  # have norms of 1e-7. Those of a dozen classes begin at a loss of 1 or more.
  assert all(r["gradient_norm"] > 1e-3 for r in rows)
  assert all(r["distance"] > 1e-4 for r in rows if "distance" in r)
  assert ("distance" in rows[0]) == (recipe in DISTILLED)
  if "mae" not in recipe:  # whose task gives no classes
    assert_evaluates(command, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", DIFFUSION)
def test_recipe_of_diffusion_trains_and_is_sampled(
  recipe, trained_rows, command, tmp_path
):
  losses = [r["loss"] for r in trained_rows(f"{recipe}.py:smoke")]
  # Normal noise that nothing is known of has a mean square of 1; the velocity
  # of half black digits has one not far from it.
  assert 0.5 < min(losses) < max(losses) < 1.5
  (picture,) = (tmp_path / "pictures").glob("00000003_*.png")
  assert Image.open(picture).size[0] > 8 * 64
  sampled = command(
    *("-m", "flexivit_jax", "sample", f"--checkpoint={tmp_path}"),
    *(f"--output={tmp_path}", "--count=2", "--steps=2", "--classes=1,9"),
  )
  assert sampled.returncode == 0, sampled.stderr
  found = np.load(tmp_path / "samples.npz")
  assert found["images"].shape == (4, 8, 8, 3)
  assert found["labels"].tolist() == [1, 1, 9, 9]


def test_no_recipe_is_left_out():
  configs = pathlib.Path(__file__).parents[2] / "configs"
  shared = [config.partition(".")[0] for config, _ in runs.RUNS.values()]
  names = {recipe.partition(":")[0] for recipe in RECIPES}
  names |= {recipe.partition(",")[0] for recipe in SMOKE}
  names |= {*DIFFUSION, *MAIN_JOB, *shared}
  assert {path.stem for path in configs.glob("[!_]*.py")} == names
