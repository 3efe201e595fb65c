"""Runs of diffusion: resumed, packed, on devices that share rows, and learned.

All slow: each trains.
"""

import json
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from flexivit_jax.checkpoints import load, run_directory
from flexivit_jax.checkpoints.run_metrics import read_rows
from flexivit_jax.config import build
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.devices import placement
from flexivit_jax.run import open as open_lib

pytestmark = pytest.mark.slow

TOTAL = 40
SMALL = (
  "model.size={'name':'custom','width':16,'depth':2,'mlp_dim':32,"
  "'num_heads':2}",
  "task.sampler.steps=2",
  "batch_size=16",
  f"total_steps={TOTAL}",
  "eval_every=20",
  "save_every=4",
  "log_every=4",
  "optimizer.schedule.warmup_steps=2",
)


def _arguments(*overrides):
  overrides = [f"--config.{x}" for x in (*SMALL, *overrides)]
  return ("--config=configs/dit_digits.py", *overrides)


def test_killed_and_resumed_equals_uninterrupted(command, tmp_path):
  def start(workdir, **kwargs):
    arguments = _arguments("workers=1", "accumulate=2")
    return command("train.py", *arguments, f"--workdir={workdir}", **kwargs)

  whole, cut = tmp_path / "whole", tmp_path / "cut"
  done = start(whole)
  assert done.returncode == 0, done.stderr
  process = start(cut, wait=False)
  deadline = time.monotonic() + 300
  while not (steps := run_directory.steps(cut)) or steps[-1] < 8:
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.01)
  process.kill()
  process.communicate(timeout=120)
  assert run_directory.steps(cut)[-1] < TOTAL
  done = start(cut)
  assert done.returncode == 0, done.stderr
  assert "resuming after step" in done.stdout
  assert _arrays(cut) == _arrays(whole)
  assert _rows(cut) == _rows(whole)
  for name in ("00000020_2.png", "00000040_2.png"):
    pictures = [(x / "pictures" / name).read_bytes() for x in (cut, whole)]
    assert pictures[0] == pictures[1]


def _arrays(workdir):
  """{name: bytes} of the last checkpoint."""
  with ocp.StandardCheckpointer() as checkpointer:
    found = checkpointer.restore(
      workdir / "checkpoints" / str(TOTAL) / "arrays"
    )
  return {
    jax.tree_util.keystr(path): np.asarray(x).tobytes()
    for path, x in jax.tree_util.tree_leaves_with_path(found)
  }


def _rows(workdir):
  rows = (workdir / "metrics.jsonl").read_text().splitlines()
  return [
    {k: v for k, v in json.loads(row).items() if not k.startswith("speed/")}
    for row in rows
  ]


def _after_steps(*overrides, steps=3):
  """Parameters after some steps on the tests' eight devices."""
  experiment = build.load("configs/dit_digits.py", (*SMALL, *overrides))
  run = open_lib.prepare(experiment, lambda line: None)
  state, metrics = run.init_state(), run.zero_metrics()
  (step,) = run.compile_steps(state, metrics, lambda line: None).values()
  for _ in range(steps):
    batch = placement.to_devices(next(run.loader), run.mesh)
    state, metrics = step(state, metrics, batch)
  run.loader.close()
  return jax.device_get(state.params), float(metrics["loss"])


@pytest.mark.parametrize(
  "overrides",
  [
    ("mesh.seq=4",),
    ("mesh.seq=4", "model.distribution=ring"),
    ("sharding.name=fsdp", "sharding.min_size=1"),
    ("model.scan=True", "model.remat=True"),
  ],
  ids=str,
)
def test_devices_that_share_rows_or_parameters_learn_the_same(overrides):
  # So that a step shows how large a gradient is.
  slow = "optimizer.eps=0.1"
  want, loss = _after_steps(slow)
  found, other = _after_steps(slow, *overrides)
  # Sums in another order, in float32.
  np.testing.assert_allclose(other, loss, rtol=1e-5)
  if "model.scan=True" in overrides:
    return  # other random parameters would need other names
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=2e-6),
    found,
    want,
  )


@pytest.mark.parametrize(
  "overrides",
  [
    # Sizes that are drawn: a program each, and pictures of each.
    ("patch_size={'name':'sampled','choices':(2,4)}",),
    # Sizes that share rows; no pictures.
    (
      "patch_size={'name':'sampled','choices':(2,4)}",
      "packing={'row_length':32,'max_images':8}",
      "train.resolution.name=native",
      "validation.resolution.name=native",
      "batch_size=8",
    ),
  ],
  ids=("sampled", "packed"),
)
def test_several_patch_sizes_train(command, tmp_path, overrides):
  done = command(
    "train.py",
    *_arguments(*overrides, "total_steps=8", "eval_every=8"),
    f"--workdir={tmp_path}",
  )
  assert done.returncode == 0, done.stderr
  packed = len(overrides) > 1
  # One trace for each size, and for packs one.
  assert done.stdout.count("compiled train step") == (1 if packed else 2)
  assert len([*tmp_path.glob("pictures/*.png")]) == (0 if packed else 2)
  rows = read_rows(tmp_path / "metrics.jsonl")
  for size in (2, 4):
    losses = [r[f"loss@{size}"] for r in rows if f"loss@{size}" in r]
    assert losses
    assert np.isfinite(losses).all()


def test_latents_are_learned_and_sampled(command, tmp_path):
  """Of three classes with means -2, 0 and 2 samples have about these."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 3, 200).astype(np.int32)
  means = 2.0 * (labels.reshape(-1, 1, 1, 1) - 1)
  latents = means + 0.1 * rng.normal(size=(200, 4, 4, 5))
  path = tmp_path / "latents.npz"
  np.savez(path, latents=10 * latents.astype(np.float32), labels=labels)
  for patch_size in (1, 2):
    workdir = tmp_path / f"run{patch_size}"

    def source(split):
      named = {"name": "arrays", "path": str(path), "split": split}
      return named | {"scale": 0.1}

    done = command(
      "train.py",
      f"--config=configs/dit_digits.py:{patch_size}",
      f"--config.train.source={source('all[40:]')}",
      f"--config.validation.source={source('all[:40]')}",
      "--config.test=None",
      "--config.model.size=mu",
      "--config.model.channels=5",
      "--config.task.sampler.clip=False",
      "--config.task.sampler.guidance=1.0",
      "--config.total_steps=400",
      "--config.eval_every=400",
      "--config.batch_size=32",
      "--config.optimizer.learning_rate=3e-3",
      "--config.ema=0.98",
      f"--workdir={workdir}",
    )
    assert done.returncode == 0, done.stderr
    done = command(
      *("-m", "flexivit_jax.cli.sample", f"--checkpoint={workdir}"),
      *(f"--output={workdir}", "--count=20"),
    )
    assert done.returncode == 0, done.stderr
    found = np.load(workdir / "samples.npz")
    assert found["images"].shape == (60, 4, 4, 5)
    means = found["images"].reshape(3, -1).mean(axis=1)
    # In the file's own unit; a few hundred steps are no perfect model.
    np.testing.assert_allclose(means, [-20, 0, 20], atol=5)


def test_a_run_starts_another_and_no_classifier(command, tmp_path):
  first = tmp_path / "first"
  overrides = ("total_steps=3", "eval_every=3")
  done = command("train.py", *_arguments(*overrides), f"--workdir={first}")
  assert done.returncode == 0, done.stderr
  again = (*SMALL, *overrides, f"init_from={{'checkpoint':'{first}'}}")
  experiment = build.load("configs/dit_digits.py", again)
  run = open_lib.prepare(experiment, lambda line: None)
  found = load.read(first)
  assert run.initial.keys() == found.arrays.keys()
  assert {name.partition("/")[0] for name in found.own} == {"diffusion"}
  again = [x for x in again if not x.startswith("task.")]
  plain = ("model.conditioning=none", "task=supervised", *again)
  with pytest.raises(ConfigError) as error:
    open_lib.prepare(
      build.load("configs/dit_digits.py", plain), lambda line: None
    )
  assert str(error.value) == (
    f"config.init_from: {first} has conditioning 'adaln_zero' and the model "
    "'none', whose norms are others: diffusion starts from diffusion alone, "
    "and all else from all else, so give another checkpoint"
  )


def test_a_model_that_reads_no_condition_is_refused_at_the_start(here):
  done = here(
    "train.py",
    *_arguments("model.conditioning=none"),
    "--dry_run",
  )
  assert done.returncode == 2
  assert done.stderr == (
    "error: config.task diffusion tells the blocks time and class, and they "
    'read neither: give config.model.conditioning="adaln_zero"\n'
  )
