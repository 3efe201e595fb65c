"""Runs of diffusion: on devices that share rows, packed, and learned."""

import jax
import numpy as np
import pytest

from flexivit_jax.checkpoints import load
from flexivit_jax.checkpoints.run_metrics import read_rows
from flexivit_jax.config import build
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.devices import placement
from flexivit_jax.run import open as open_lib
from tests.run import whole_runs

CONFIG = "configs/dit_digits.py"
SMALL = (
  "model.size={'name':'custom','width':16,'depth':2,'mlp_dim':32,"
  "'num_heads':2}",
  *("task.sampler.steps=2", "batch_size=16", "total_steps=8", "eval_every=8"),
  *("save_every=4", "log_every=4", "optimizer.schedule.warmup_steps=2"),
)


def _arguments(*overrides):
  overrides = [f"--config.{x}" for x in (*SMALL, *overrides)]
  return (f"--config={CONFIG}", *overrides)


def _prepare(*overrides):
  return open_lib.prepare(
    build.load(CONFIG, (*SMALL, *overrides)), lambda line: None
  )


def _after_steps(*overrides, steps=3):
  # The large eps: a step shows how large a gradient is.
  run = _prepare("optimizer.eps=0.1", *overrides)
  state, metrics = run.init_state(), run.zero_metrics()
  (step,) = run.compile_steps(state, metrics, lambda line: None).values()
  for _ in range(steps):
    batch = placement.to_devices(next(run.loader), run.mesh)
    state, metrics = step(state, metrics, batch)
  run.loader.close()
  return jax.device_get(state.params), float(metrics["loss"])


@pytest.mark.slow
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
  want, loss = _after_steps()
  found, other = _after_steps(*overrides)
  # Sums in another order, in float32.
  np.testing.assert_allclose(other, loss, rtol=1e-5)
  if "model.scan=True" in overrides:
    return  # other random parameters would need other names
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=2e-6),
    found,
    want,
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ("overrides", "programs", "pictures"),
  [
    ((), 2, 2),
    (
      (
        *("packing={'row_length':32,'max_images':8}", "batch_size=8"),
        *(f"{x}.resolution.name=native" for x in ("train", "validation")),
      ),
      1,
      0,
    ),
  ],
  ids=("sampled", "packed"),
)
def test_several_patch_sizes_train(
  overrides, programs, pictures, here, tmp_path
):
  sizes = "patch_size={'name':'sampled','choices':(2,4)}"
  arguments = _arguments(sizes, *overrides)
  done = here("train.py", *arguments, f"--workdir={tmp_path}")
  assert done.returncode == 0, done.stderr
  assert done.stdout.count("compiled train step") == programs
  assert len([*tmp_path.glob("pictures/*.png")]) == pictures
  rows = read_rows(tmp_path / "metrics.jsonl")
  for size in (2, 4):
    losses = [r[f"loss@{size}"] for r in rows if f"loss@{size}" in r]
    assert losses
    assert np.isfinite(losses).all()


@pytest.mark.slow
@pytest.mark.parametrize("patch_size", [1, 2])
def test_latents_are_learned_and_sampled(patch_size, command, tmp_path):
  """Of three classes with means -2, 0 and 2 samples have about these."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 3, 200).astype(np.int32)
  means = 2.0 * (labels.reshape(-1, 1, 1, 1) - 1)
  latents = means + 0.1 * rng.normal(size=(200, 4, 4, 5))
  path = tmp_path / "latents.npz"
  np.savez(path, latents=10 * latents.astype(np.float32), labels=labels)
  source = {"name": "arrays", "path": str(path), "scale": 0.1}
  overrides = (
    f"train.source={source | {'split': 'all[40:]'}}",
    f"validation.source={source | {'split': 'all[:40]'}}",
    *("test=None", "model.size=mu", "model.channels=5", "batch_size=32"),
    *("task.sampler.clip=False", "task.sampler.guidance=1.0", "ema=0.98"),
    *("total_steps=400", "eval_every=400", "optimizer.learning_rate=3e-3"),
  )
  done = command(
    *("train.py", f"--config={CONFIG}:{patch_size}"),
    *(f"--config.{x}" for x in overrides),
    f"--workdir={tmp_path}",
  )
  assert done.returncode == 0, done.stderr
  done = command(
    *("-m", "flexivit_jax", "sample", f"--checkpoint={tmp_path}"),
    *(f"--output={tmp_path}", "--count=20"),
  )
  assert done.returncode == 0, done.stderr
  found = np.load(tmp_path / "samples.npz")["images"]
  assert found.shape == (60, 4, 4, 5)
  # In the file's own unit; a few hundred steps are no perfect model.
  np.testing.assert_allclose(
    found.reshape(3, -1).mean(axis=1), [-20, 0, 20], atol=5
  )


def test_a_run_starts_another_and_no_classifier(trained):
  first = trained("diffusion")
  from_it = f"init_from={{'checkpoint':'{first}'}}"

  def prepare(*overrides):
    experiment = whole_runs.experiment("diffusion", from_it, *overrides)
    return open_lib.prepare(experiment, lambda line: None)

  found = load.read(first)
  assert prepare().initial.keys() == found.arrays.keys()
  assert {name.partition("/")[0] for name in found.own} == {"diffusion"}
  with pytest.raises(ConfigError, match="conditioning 'adaln_zero' and the mo"):
    prepare("model.conditioning=none", "task=supervised")


def test_a_model_that_reads_no_condition_is_refused_at_the_start():
  with pytest.raises(ConfigError, match=r'give.*"adaln_zero"'):
    _prepare("model.conditioning=none")
