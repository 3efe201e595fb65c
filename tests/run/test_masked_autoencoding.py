"""Masked autoencoding from a config to a checkpoint that starts other runs."""

import dataclasses
import json
import re
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

import flexivit_jax
from flexivit_jax.checkpoints import load
from flexivit_jax.checkpoints.run_metrics import read_rows
from flexivit_jax.config import build
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.run import open as open_lib
from flexivit_jax.tasks.masked_autoencoding import MaskedAutoencoder

CONFIG = "configs/mae_digits.py:smoke"


@pytest.mark.parametrize(
  ("overrides", "text"),
  [
    (
      ("mesh.seq=2",),
      "config: mesh.seq is 2, but the task mae takes visible patches out of "
      "whole rows, which devices then cannot share: give mesh.seq=1",
    ),
    (
      ("patch_size.choices=(4,1)",),
      'config: task.target is "patch", each patch normalised by its own '
      'pixels, and patches of 1x1 have one each: give task.target="image"',
    ),
    (
      ("mix=({'name':'mixup','alpha':0.2},)",),
      "config: mix is for tasks that classify, whose targets are mixed with "
      "the images: give mix=()",
    ),
    (
      (
        "packing={'row_length':64,'max_images':4}",
        "train.resolution='native'",
        "task.decoder.position={'name':'row_column','size':(6,7)}",
      ),
      "config: task.decoder.position has places for 6x7 patches, and packed "
      "images may be of any grid: take sincos2d",
    ),
    (
      ("task.mask_ratio=1.5",),
      "config.task: mask_ratio is 1.5: give more than 0 and less than 1, 0.75 "
      "say",
    ),
    (
      ("task.decoder.position=rotary",),
      "config.task.decoder: position is Rotary: what is hidden is told apart "
      "by its place alone, so take positions that are added, sincos2d say",
    ),
    (
      ("task.decoder.size.width=66", "task.decoder.size.num_heads=2"),
      "config.task.decoder: sincos2d positions need a width that is a multiple "
      "of 4 and at least 8, not 66",
    ),
  ],
)
def test_configs_that_cannot_be(overrides, text):
  with pytest.raises(ConfigError) as caught:
    build.load(CONFIG, overrides)
  assert str(caught.value) == text


@pytest.mark.parametrize(
  ("overrides", "text"),
  [
    (
      ("patch_size.choices=(8,24)",),
      "config.patch_size: 1 patch of 24x24 in an image of 24x24 px, of which "
      "mask_ratio 0.75 hides none: take smaller patches or larger images",
    ),
    (
      ("model.num_classes=10",),
      "config.model.num_classes is 10, but the task mae has no classes: leave "
      "it out, or give 0",
    ),
    (
      ("model.pool=map",),
      'config.model.pool is "map", and the task mae trains what comes before '
      'the pool alone: take pool="gap" or "tok"',
    ),
  ],
)
def test_what_cannot_work_is_refused_at_once(overrides, text):
  with pytest.raises(ConfigError) as caught:
    open_lib.prepare(build.load(CONFIG, overrides), lambda line: None)
  assert str(caught.value) == text


def test_names_of_the_config():
  found = build.load("configs/mae_digits.py")
  assert found.task == MaskedAutoencoder(decoder=found.task.decoder)
  assert build.from_plain(build.to_json(found)) == found
  text = "config.task.decoder.wdith: no such key; valid: size, position"
  plain = build.to_json(found)
  plain["task"]["decoder"]["wdith"] = 3
  with pytest.raises(ConfigError, match=re.escape(text)):
    build.from_plain(plain)


# Everything below starts processes and trains.
RUN = (
  f"--config={CONFIG}",
  "--config.total_steps=12",
  "--config.eval_every=6",
  "--config.save_every=3",
  "--config.keep=9",
  "--config.model.dropout=0.1",
)


@pytest.fixture(scope="module")
def run(command, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "mae"
  done = command("train.py", *RUN, f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  return workdir


def numbers(workdir, step):
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore(workdir / "checkpoints" / str(step) / "arrays")
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


@pytest.mark.slow
def test_a_killed_run_ends_alike_bit_for_bit(run, command, tmp_path):
  workdir = tmp_path / "killed"
  process = command(
    "train.py", *RUN, f"--workdir={workdir}", wait=False, start_new_session=True
  )
  done = workdir / "checkpoints" / "6"
  deadline = time.monotonic() + 500
  while not done.is_dir() and process.poll() is None:
    assert time.monotonic() < deadline
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  again = command("train.py", *RUN, f"--workdir={workdir}")
  assert again.returncode == 0, again.stderr
  if process.returncode == -signal.SIGKILL:
    assert "resuming after step" in again.stdout
  before, after = numbers(run, 12), numbers(workdir, 12)
  assert any("mae_decoder" in name for name in before)
  assert before.keys() == after.keys()
  for name, x in before.items():
    np.testing.assert_array_equal(x, after[name], err_msg=name)

  def rows(workdir):
    return [
      {k: v for k, v in row.items() if not k.startswith("speed/")}
      for row in read_rows(workdir / "metrics.jsonl")
    ]

  assert rows(workdir) == rows(run)


@pytest.mark.slow
def test_what_a_run_leaves(run, command):
  rows = read_rows(run / "metrics.jsonl")
  losses = [row for row in rows if "relative_loss" in row]
  assert [row["step"] for row in losses] == list(range(1, 13))
  (last,) = [r for r in rows if r["step"] == 12 and "validation/loss" in r]
  assert {f"validation/relative_loss@{p}" for p in (4, 6)} <= last.keys()
  for name in ("00000006_4", "00000012_6"):
    picture = Image.open(run / "pictures" / f"{name}.png")
    # Eight rows of three digits of 24 px, each enlarged three times.
    assert picture.size == (3 * 76 + 4, 8 * 76 + 4)
  evaluated = command("evaluate.py", f"--checkpoint={run}")
  assert evaluated.returncode == 2
  assert "its task gives no classes" in evaluated.stderr


@pytest.mark.slow
def test_the_encoder_loads_without_its_decoder(run, tmp_path):
  found = load.read(run)
  assert not any(name.startswith("mae_decoder") for name in found.arrays)
  assert any(name.startswith("mae_decoder/") for name in found.own)
  vit = flexivit_jax.load(run)
  images = np.zeros((2, 24, 24, 3), np.uint8)
  assert vit.features(images, patch_size=8).shape == (2, 32)
  assert vit.patch_features(images, patch_size=8).shape == (2, 3, 3, 32)
  flexivit_jax.save(vit, tmp_path / "encoder.npz", "big_vision")
  again = flexivit_jax.load(tmp_path / "encoder.npz", num_heads=2)
  np.testing.assert_array_equal(
    again.params["embedding"]["kernel"], vit.params["embedding"]["kernel"]
  )


@pytest.mark.slow
def test_few_shots_of_a_run(run, command, tmp_path):
  done = command(
    *("-m", "flexivit_jax.cli.few_shot", f"--checkpoint={run}"),
    *("--patch_sizes=8", "--shots=1", "--data=digits", "--resolutions=24"),
    f"--output={tmp_path}",
  )
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / "few_shot.json").read_text())
  assert found["points"][0]["tokens"] == 9


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["finetune", "linear_probe"])
def test_recipes_start_from_a_run(recipe, run, command, tmp_path):
  """Its encoder, bit for bit, with a head of their own; not its decoder."""
  done = command(
    "train.py",
    f"--config=configs/{recipe}.py:tfds:none,{run},8,24",
    f"--workdir={tmp_path}",
    *(
      f"--config.{split}={{'source':{{'name':'digits','split':'{part}'}}}}"
      for split, part in (
        ("train", "train[:64]"),
        ("validation", "train[64:80]"),
        ("test", "test[:16]"),
      )
    ),
    *("--config.total_steps=1", "--config.optimizer.learning_rate=0.0"),
    *("--config.batch_size=8", "--config.eval_batch_size=8"),
    *("--config.threads=0", "--config.optimizer.schedule.warmup_steps=0"),
  )
  assert done.returncode == 0, done.stderr
  assert (
    "not loaded, freshly initialised: head/bias, head/kernel" in done.stdout
  )
  started, encoder = flexivit_jax.load(tmp_path), flexivit_jax.load(run)
  assert set(started.params) == {*encoder.params, "head"}
  for path, x in jax.tree_util.tree_leaves_with_path(encoder.params):
    own = started.params
    for key in path:
      own = own[key.key]
    np.testing.assert_array_equal(x, own)
  evaluated = command("evaluate.py", f"--checkpoint={tmp_path}", "--no_timing")
  assert evaluated.returncode == 0, evaluated.stderr


@pytest.mark.slow
def test_packed_rows_train(tmp_path):
  """Of images of any size, of two patch sizes, some patches dropped."""
  import train

  experiment = build.load(
    "configs/mae_digits.py:smoke",
    (
      "model.position={'name':'row_column','size':(16,16)}",
      "train.source={'name':'digits_canvas','split':'train[:64]'}",
      "train.transforms=()",
      "train.resolution={'name':'sampled','low':12,'high':32}",
      "validation={'source':{'name':'digits_canvas','split':'train[64:80]'},"
      "'resolution':{'name':'naflex','max_patches':36}}",
      "test=None",
      "packing={'row_length':64,'max_images':6,'open_rows':8,"
      "'drop':{'name':'constant','rate':0.2}}",
    ),
  )
  experiment = dataclasses.replace(experiment, log_every=1)
  assert train.train(experiment, tmp_path) == 0
  rows = read_rows(tmp_path / "metrics.jsonl")
  losses = [row for row in rows if "relative_loss" in row]
  assert [row["step"] for row in losses] == [1, 2, 3]
  for row in losses:
    assert 0.8 < row["relative_loss"] < 1.2  # it has learned nothing yet
    assert {"loss@4", "loss@6"} <= row.keys()
    assert 0.15 < row["pack/dropped_tokens"] < 0.3
  assert any("validation/loss" in row for row in rows)
  assert not (tmp_path / "pictures").exists()
