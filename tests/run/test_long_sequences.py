"""Runs whose devices share the tokens of each image."""

import jax
import numpy as np
import pytest

from flexivit_jax.checkpoints import run_store
from flexivit_jax.config import build
from flexivit_jax.core.errors import ConfigError
from flexivit_jax.devices import placement
from flexivit_jax.run import state as state_lib
from flexivit_jax.run.open import prepare

SMALL = (
  "train.source.side=8",
  "validation.source.side=8",
  "model.position.size=(8,8)",
  "model.size.width=16",
  "model.size.mlp_dim=32",
  "model.size.depth=2",
  "model.kernel.block_q=16",
  "model.kernel.block_k=8",
  "batch_size=16",
  "total_steps=4",
  "optimizer.schedule.warmup_steps=1",
  # So that a step shows how large a gradient is.
  "optimizer.eps=0.1",
)


def _prepared(*overrides):
  config_of = build.load("configs/long_digits.py", (*SMALL, *overrides))
  return prepare(config_of, lambda line: None)


def _train(run, state, metrics, steps):
  (step,) = run.compile_steps(state, metrics, lambda line: None).values()
  for _ in range(steps):
    batch = placement.to_devices(next(run.loader), run.mesh)
    state, metrics = step(state, metrics, batch)
  return state


def _assert_close(got, expected):
  # Gradients are summed in another order, in float32, for a few steps.
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=2e-6),
    jax.device_get(got),
    jax.device_get(expected),
  )


@pytest.fixture(scope="module")
def alone():
  """The state of a run without shared rows after two and four steps."""
  run = _prepared("mesh.seq=1")
  state = run.init_state()
  first = jax.device_get(state)
  state = _train(run, state, run.zero_metrics(), 2)
  after = jax.device_get(state)
  last = jax.device_get(_train(run, state, run.zero_metrics(), 2))
  return first, after, last


def _slow(*overrides):
  return pytest.param(overrides, marks=pytest.mark.slow)


@pytest.mark.parametrize(
  "overrides",
  [
    ("mesh.order=strided",),
    _slow("model.distribution=ring", "mesh.seq=8"),
    _slow("model.distribution=ulysses", "mesh.order=strided"),
    _slow("accumulate=2", "ema=0.9"),
  ],
  ids=" ".join,
)
def test_steps_are_those_of_a_run_that_shares_no_rows(alone, overrides):
  run = _prepared(*overrides)
  state = run.init_state()
  _assert_close(state.params, alone[0].params)
  state = _train(run, state, run.zero_metrics(), 2)
  _assert_close(state.params, alone[1].params)


@pytest.mark.slow
def test_a_checkpoint_goes_on_with_another_share(alone, tmp_path):
  """Saved strided over four devices, restored by neighbours over eight."""
  run = _prepared("mesh.order=strided")
  state = _train(run, run.init_state(), run.zero_metrics(), 2)
  checkpoints = run_store.Checkpoints(tmp_path)
  arrays = {"state": state, "running": run.zero_metrics()}
  progress = {"loader": run.loader.get_state()}
  checkpoints.save(2, arrays, progress, None)
  checkpoints.close()
  other = _prepared("mesh.seq=8", "model.distribution=ring")
  checkpoints = run_store.Checkpoints(tmp_path)
  restored, metrics = state_lib.restore_or_init(
    other, checkpoints, lambda line: None
  )
  checkpoints.close()
  jax.tree.map(
    np.testing.assert_array_equal, restored.params, arrays["state"].params
  )
  state = _train(other, restored, metrics, 2)
  _assert_close(state.params, alone[2].params)


@pytest.mark.parametrize(
  ("overrides", "place", "text"),
  [
    (["mesh.seq=3"], "config.mesh", "6 devices, but there are 8: give data=8"),
    (["mesh.seq=0"], "config.mesh", "seq is 0: give at least 1"),
    (["mesh.order=random"], "config.mesh", "'random': give contiguous or str"),
    (["model.pool=tok"], "config.model", "4 devices .*"),
    (
      ["train.source.side=9", "validation=None", "model.position.size=(9,9)"],
      "config.patch_size 1x1",
      "81 tokens .* 4 devices .*seq=1 or 3, or 80 or 84 tokens",
    ),
    (
      ["validation.transforms=({'name':'resize','size':(6,6)},)", "mesh.seq=8"],
      "config.validation",
      "36 tokens .* 8 devices .*or 12, or 32 or 40 tokens",
    ),
  ],
)
def test_what_cannot_be_shared_is_refused_at_start(overrides, place, text):
  with pytest.raises(ConfigError, match=f"^{place}: .*{text}"):
    _prepared(*overrides)
