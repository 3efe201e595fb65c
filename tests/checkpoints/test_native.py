import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.checkpoints import native


def _arrays(value):
  state = {
    "params": {"head": {"kernel": jnp.full((3, 2), value)}},
    "opt_state": (jnp.full(4, value), jnp.int32(value)),
  }
  return {"state": state, "running": {"loss": jnp.float32(value)}}


def _save_all(workdir, saves, **kwargs):
  checkpoints = native.Checkpoints(workdir, **kwargs)
  for step, score in saves:
    scores = None if score is None else {"top1": score}
    checkpoints.save(step, _arrays(step), {"loader": {"at": step}}, scores)
  checkpoints.close()


def test_restores_arrays_and_progress(tmp_path):
  _save_all(tmp_path, [(1, None), (2, None)])
  checkpoints = native.Checkpoints(tmp_path)
  assert checkpoints.latest() == 2
  arrays, progress = checkpoints.restore(2, _arrays(0.0))
  checkpoints.close()
  assert progress == {"loader": {"at": 2}}
  expected = _arrays(2)
  assert jax.tree.structure(arrays) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(arrays), jax.tree.leaves(expected)):
    np.testing.assert_array_equal(a, b)


def test_keeps_the_latest_and_the_best_also_after_reopening(tmp_path):
  saves = [(1, 0.5), (2, 0.9), (3, None), (4, 0.8), (5, None), (6, 0.1)]
  _save_all(tmp_path, saves, keep=2, score="top1")
  assert native.steps(tmp_path) == {2: {"top1": 0.9}, 5: None, 6: {"top1": 0.1}}
  _save_all(tmp_path, [(7, 0.7), (8, None)], keep=2, score="top1")
  assert native.steps(tmp_path) == {2: {"top1": 0.9}, 7: {"top1": 0.7}, 8: None}
  _save_all(tmp_path, [(9, 0.95)], keep=2, score="top1")
  assert sorted(native.steps(tmp_path)) == [8, 9]


def test_parameters_are_read_without_the_optimizer(tmp_path):
  _save_all(tmp_path, [(3, None)])
  params = native.load_params(tmp_path, 3)
  assert list(params) == ["head"]
  kernel = params["head"]["kernel"]
  assert isinstance(kernel, np.ndarray)
  np.testing.assert_array_equal(kernel, np.full((3, 2), 3.0))


def test_no_checkpoint_is_no_step(tmp_path):
  assert native.steps(tmp_path) == {}
  checkpoints = native.Checkpoints(tmp_path / "new")
  assert checkpoints.latest() is None
  checkpoints.close()


@pytest.mark.parametrize("devices", [1, 8])
def test_restores_onto_other_devices(tmp_path, devices):
  _save_all(tmp_path, [(1, None)])
  mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
  everywhere = jax.NamedSharding(mesh, jax.P())
  like = jax.device_put(_arrays(0.0), everywhere)
  checkpoints = native.Checkpoints(tmp_path)
  arrays, _ = checkpoints.restore(1, like)
  checkpoints.close()
  kernel = arrays["state"]["params"]["head"]["kernel"]
  assert kernel.sharding.is_equivalent_to(everywhere, 2)
  assert (kernel == 1).all()
