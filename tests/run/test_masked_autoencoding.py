"""Masked autoencoding from a config to a checkpoint that starts other runs."""

import jax
import numpy as np
import pytest
from PIL import Image

import flexivit_jax
import train
from flexivit_jax.checkpoints import load
from flexivit_jax.config import build
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.run import open as open_lib
from tests.run import whole_runs

CONFIG = "configs/mae_digits.py:smoke"


@pytest.mark.parametrize(
  ("overrides", "text"),
  [
    (("mesh.seq=2",), "config: mesh.seq is 2, .*give mesh.seq=1"),
    (("patch_size.choices=(4,1)",), 'config: .*1x1.*task.target="image"'),
    (("mix=({'name':'mixup','alpha':0.2},)",), r"config: mix .*mix=\(\)"),
    (
      (
        "packing={'row_length':64,'max_images':4}",
        "train.resolution='native'",
        "task.decoder.position={'name':'row_column','size':(6,7)}",
      ),
      "config: task.decoder.position has places for 6x7.*take sincos2d",
    ),
    (("task.mask_ratio=1.5",), "config.task: mask_ratio is 1.5: .*less than 1"),
    (
      ("task.decoder.position=rotary",),
      "config.task.decoder: position is Rotary: .*sincos2d",
    ),
    (
      ("task.decoder.size.width=66", "task.decoder.size.num_heads=2"),
      "config.task.decoder: .*multiple of 4 .*not 66",
    ),
    (
      ("patch_size.choices=(8,24)",),
      "config.patch_size: 1 patch of 24x24 in .*smaller patches",
    ),
    (("model.num_classes=10",), "config.model.num_classes is 10, .*give 0"),
    (("model.pool=map",), 'config.model.pool is "map", .*pool="gap" or "tok"'),
  ],
)
def test_what_cannot_work_is_refused(overrides, text):
  with pytest.raises(ConfigError, match=text):
    open_lib.prepare(build.load(CONFIG, overrides), lambda line: None)


@pytest.fixture
def run(trained):
  """Of 6 steps at 6 and 12 px."""
  return trained("mae")


def test_what_a_run_leaves(run, here):
  rows = whole_runs.rows(run)
  losses = [row for row in rows if "relative_loss" in row]
  assert [row["step"] for row in losses] == [1, 2, 3, 4, 5, 6]
  (last,) = [r for r in rows if "validation/loss" in r]
  assert {f"validation/relative_loss@{p}" for p in (6, 12)} <= last.keys()
  for size in (6, 12):
    picture = Image.open(run / "pictures" / f"00000006_{size}.png")
    # Eight rows of three digits of 24 px, each enlarged three times.
    assert picture.size == (3 * 76 + 4, 8 * 76 + 4)
  evaluated = here("evaluate.py", f"--checkpoint={run}")
  assert evaluated.returncode == 2
  assert "its task gives no classes" in evaluated.stderr


def test_the_encoder_loads_without_its_decoder(run, tmp_path):
  found = load.read(run)
  assert not any(name.startswith("mae_decoder") for name in found.arrays)
  assert any(name.startswith("mae_decoder/") for name in found.own)
  vit = flexivit_jax.load(run)
  images = np.zeros((2, 24, 24, 3), np.uint8)
  assert vit.features(images, patch_size=8).shape == (2, 32)
  assert vit.patch_features(images, patch_size=8).shape == (2, 3, 3, 32)
  flexivit_jax.save(vit, tmp_path / "encoder.npz", "big_vision")
  again = flexivit_jax.load(tmp_path / "encoder.npz", num_heads=4)
  np.testing.assert_array_equal(
    again.params["embedding"]["kernel"], vit.params["embedding"]["kernel"]
  )


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["finetune", "linear_probe"])
def test_recipes_start_from_a_run(recipe, run, here, tmp_path):
  """Its encoder, bit for bit, with a head of their own; not its decoder."""
  workdir = tmp_path / "run"
  splits = {"train": ":64", "validation": "64:80", "test": ":16"}
  done = here(
    "train.py",
    f"--config=configs/{recipe}.py:tfds:none,{run},8,24",
    f"--workdir={workdir}",
    *(
      f"--config.{k}={{'source':{{'name':'digits','split':'train[{v}]'}}}}"
      for k, v in splits.items()
    ),
    *("--config.total_steps=1", "--config.optimizer.learning_rate=0.0"),
    *("--config.batch_size=8", "--config.eval_batch_size=8"),
    *("--config.threads=0", "--config.optimizer.schedule.warmup_steps=0"),
  )
  assert done.returncode == 0, done.stderr
  assert "freshly initialised: head/bias, head/kernel" in done.stdout
  started, encoder = flexivit_jax.load(workdir), flexivit_jax.load(run)
  assert set(started.params) == {*encoder.params, "head"}
  own = {k: started.params[k] for k in encoder.params}
  jax.tree.map(np.testing.assert_array_equal, own, encoder.params)
  evaluated = here("evaluate.py", f"--checkpoint={workdir}", "--no_timing")
  assert evaluated.returncode == 0, evaluated.stderr


@pytest.mark.slow
def test_packed_rows_train(tmp_path):
  """Of images of any size, of two patch sizes, some patches dropped."""
  experiment = build.load(
    CONFIG,
    (
      "model.position={'name':'row_column','size':(16,16)}",
      "train.source={'name':'digits_canvas','split':'train[:64]'}",
      *("train.transforms=()", "test=None", "log_every=1"),
      "train.resolution={'name':'sampled','low':12,'high':32}",
      "validation={'source':{'name':'digits_canvas','split':'train[64:80]'},"
      "'resolution':{'name':'naflex','max_patches':36}}",
      "packing={'row_length':64,'max_images':6,'open_rows':8,"
      "'drop':{'name':'constant','rate':0.2}}",
    ),
  )
  assert train.train(experiment, tmp_path) == 0
  rows = whole_runs.rows(tmp_path)
  losses = [row for row in rows if "relative_loss" in row]
  assert [row["step"] for row in losses] == [1, 2, 3]
  for row in losses:
    assert 0.8 < row["relative_loss"] < 1.2  # it has learned nothing yet
    assert {"loss@4", "loss@6"} <= row.keys()
    assert 0.15 < row["pack/dropped_tokens"] < 0.3
  assert any("validation/loss" in row for row in rows)
  assert not (tmp_path / "pictures").exists()
