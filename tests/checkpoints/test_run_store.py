"""Saving, restoring, keeping; damage, leftovers, full disks, other writers."""

import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexivit_jax.checkpoints import run_directory, run_store


def _arrays(value):
  state = {
    "params": {"head": {"kernel": jnp.full((3, 2), value)}},
    "opt_state": (jnp.full(4, value), jnp.int32(value)),
  }
  return {"state": state, "running": {"loss": jnp.float32(value)}}


def _save_all(workdir, saves, **kwargs):
  checkpoints = run_store.Checkpoints(workdir, **kwargs)
  for step, best in saves:
    checkpoints.save(step, _arrays(step), {"loader": {"at": step}}, best)
  checkpoints.close()


def _restore(workdir):
  """The restored checkpoint, and what was reported."""
  checkpoints = run_store.Checkpoints(workdir)
  reports = []
  try:
    return checkpoints.restore(_arrays(0.0), reports.append), reports
  finally:
    checkpoints.close()


def _assert_is_step(restored, step):
  assert restored.step == step
  assert restored.progress == {"loader": {"at": step}}
  expected = _arrays(step)
  assert jax.tree.structure(restored.arrays) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(restored.arrays), jax.tree.leaves(expected)):
    np.testing.assert_array_equal(a, b)


def _flip(path, rng):
  """Flips one random bit; returns a function that flips it back."""
  content = bytearray(path.read_bytes())
  place = int(rng.integers(len(content)))
  content[place] ^= 1 << int(rng.integers(8))
  before = path.read_bytes()
  path.write_bytes(content)
  return lambda: path.write_bytes(before)


def test_restores_arrays_and_progress(tmp_path):
  _save_all(tmp_path, [(1, None), (2, None)])
  restored, reports = _restore(tmp_path)
  _assert_is_step(restored, 2)
  assert reports == []


def test_keeps_the_latest_and_the_best_also_after_reopening(tmp_path):
  saves = [(1, 1), (2, 2), (3, 2), (4, 2), (5, 2), (6, 2)]
  _save_all(tmp_path, saves, keep=2)
  assert run_directory.steps(tmp_path) == [2, 5, 6]
  _save_all(tmp_path, [(7, 2), (8, 2)], keep=2)
  assert run_directory.steps(tmp_path) == [2, 7, 8]
  _save_all(tmp_path, [(9, 9)], keep=2)
  assert run_directory.steps(tmp_path) == [8, 9]
  assert not list(tmp_path.glob("checkpoints/*.*"))  # nothing half removed


def test_arrays_may_be_donated_once_save_returns(tmp_path):
  size = 3_000_000  # takes longer to write than the update below
  arrays = {"state": {"params": jnp.arange(size, dtype=jnp.float32)}}
  overwrite = jax.jit(
    lambda x: jax.tree.map(lambda leaf: leaf * 0 - 1, x), donate_argnums=0
  )
  checkpoints = run_store.Checkpoints(tmp_path)
  checkpoints.save(1, arrays, {})
  assert run_directory.steps(tmp_path) == []  # still being written
  arrays = jax.block_until_ready(overwrite(arrays))
  restored = checkpoints.restore(arrays, print)
  checkpoints.close()
  params = restored.arrays["state"]["params"]
  np.testing.assert_array_equal(params, np.arange(size, dtype=np.float32))


def test_parameters_are_read_without_the_optimizer(tmp_path):
  _save_all(tmp_path, [(3, None)])
  params = run_store.load_params(tmp_path, 3).params
  assert list(params) == ["head"]
  kernel = params["head"]["kernel"]
  assert isinstance(kernel, np.ndarray)
  np.testing.assert_array_equal(kernel, np.full((3, 2), 3.0))


def test_an_average_is_read_instead_where_there_is_one(tmp_path):
  checkpoints = run_store.Checkpoints(tmp_path)
  for step, ema in ((1, None), (2, {"head": jnp.full(3, 7.0)})):
    state = {"params": {"head": jnp.full(3, 1.0)}, "ema": ema}
    checkpoints.save(step, {"state": state}, {})
  checkpoints.close()
  for step, ema, value, is_average in (
    (1, True, 1.0, False),
    (2, True, 7.0, True),
    (2, False, 1.0, False),
  ):
    found = run_store.load_params(tmp_path, step, ema=ema)
    assert found.is_average == is_average
    np.testing.assert_array_equal(found.params["head"], np.full(3, value))


def test_numbers_that_were_not_measured_yet_begin_now(tmp_path):
  _save_all(tmp_path, [(1, None)])
  like = _arrays(0.0)
  like["running"] |= {"norms": {"total": jnp.arange(3.0)}}
  checkpoints = run_store.Checkpoints(tmp_path)
  restored = checkpoints.restore(like, print).arrays
  assert jax.tree.structure(restored) == jax.tree.structure(like)
  assert restored["running"]["loss"] == 1
  assert restored["running"]["norms"]["total"].tolist() == [0, 1, 2]
  # Of the state nothing may be missing.
  like["state"]["params"]["new"] = jnp.zeros(2)
  with pytest.raises(ValueError, match="new"):
    checkpoints.restore(like, print)
  checkpoints.close()


@pytest.mark.parametrize("devices", [1, 8])
def test_restores_onto_other_devices(tmp_path, devices):
  _save_all(tmp_path, [(1, None)])
  mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
  everywhere = jax.NamedSharding(mesh, jax.P())
  like = jax.device_put(_arrays(0.0), everywhere)
  checkpoints = run_store.Checkpoints(tmp_path)
  restored = checkpoints.restore(like, print)
  checkpoints.close()
  kernel = restored.arrays["state"]["params"]["head"]["kernel"]
  assert kernel.sharding.is_equivalent_to(everywhere, 2)
  assert (kernel == 1).all()


def test_every_flipped_bit_is_noticed_and_the_step_before_restored(tmp_path):
  _save_all(tmp_path / "run", [(1, None), (2, None)])
  latest = tmp_path / "run" / "checkpoints" / "2"
  files = sorted(p for p in latest.rglob("*") if p.is_file())
  files = [p for p in files if p.stat().st_size]
  assert {"manifest.sha256", "progress.json"} < {p.name for p in files}
  rng = np.random.default_rng(0)
  for trial in range(50):
    path = files[trial % len(files)]  # each kind of file several times
    mend = _flip(path, rng)
    restored, reports = _restore(tmp_path / "run")
    _assert_is_step(restored, 1)
    (report,) = reports
    first, second = report.splitlines()
    assert first.startswith("the checkpoint of step 2 is damaged: ")
    assert second == f"it was put aside as {latest}.damaged"
    # A flip in the manifest may look like one in any file that it lists.
    if path.name != "manifest.sha256":
      assert f"{path} has changed: SHA-256 " in first
    latest.with_suffix(".damaged").rename(latest)
    mend()
  restored, reports = _restore(tmp_path / "run")  # mended: nothing to report
  _assert_is_step(restored, 2)
  assert reports == []


@pytest.mark.parametrize(
  ("harm", "text"),
  [
    (lambda d: (d / "progress.json").unlink(), "progress.json is missing, or"),
    (lambda d: (d / "new").write_text("x"), "new is not in manifest.sha256"),
    (
      lambda d: (d / "manifest.sha256").write_text(
        (d / "manifest.sha256").read_text() + "\n"
      ),
      "manifest.sha256 is damaged",
    ),
  ],
)
def test_missing_and_added_files_are_noticed(tmp_path, harm, text):
  _save_all(tmp_path, [(1, None), (2, None)])
  harm(tmp_path / "checkpoints" / "2")
  restored, (report,) = _restore(tmp_path)
  _assert_is_step(restored, 1)
  assert text in report


def test_nothing_but_damage_is_an_error_and_no_new_start(tmp_path):
  _save_all(tmp_path, [(1, None), (2, None)])
  for step in "12":
    (tmp_path / "checkpoints" / step / "progress.json").write_text("{}")
  with pytest.raises(run_directory.CheckpointError) as e:
    _restore(tmp_path)
  first, second = str(e.value).splitlines()
  path = tmp_path / "checkpoints"
  assert first.startswith(
    f"none of the 2 checkpoints in {path} is whole: {path}/2/progress.json has "
  )
  assert second == (
    "restore them from a copy, or start anew in another --workdir"
  )
  # Next time neither: what was put aside does not count as never saved.
  with pytest.raises(
    run_directory.CheckpointError, match="none of the 2 checkpoints"
  ):
    _restore(tmp_path)


def test_parameters_of_a_damaged_step_are_refused(tmp_path):
  _save_all(tmp_path, [(1, None), (2, None)])
  path = tmp_path / "checkpoints" / "2" / "progress.json"
  path.write_text("{}")
  with pytest.raises(run_directory.CheckpointError) as e:
    run_store.load_params(tmp_path, 2)
  text = str(e.value)
  assert text.startswith(f"the checkpoint of step 2 is damaged: {path} has cha")
  assert text.endswith("; others: --step 1")


def test_other_arrays_are_refused_before_they_are_read(tmp_path):
  _save_all(tmp_path, [(1, None)])
  like = _arrays(0.0)
  like["state"]["params"]["head"]["kernel"] = jnp.zeros((3, 5))
  checkpoints = run_store.Checkpoints(tmp_path)
  with pytest.raises(ValueError, match=r"head/kernel +\(3, 2\) +\(3, 5\)"):
    checkpoints.restore(like, print)
  checkpoints.close()


def test_unfinished_and_half_removed_steps_are_cleaned_up(tmp_path):
  _save_all(tmp_path, [(1, None)])
  directory = tmp_path / "checkpoints"
  shutil.copytree(directory / "1", directory / "2.unfinished")
  shutil.copytree(directory / "1", directory / "0.removed")
  assert run_directory.steps(tmp_path) == [1]
  assert (directory / "2.unfinished").exists()  # looking changes nothing
  _assert_is_step(_restore(tmp_path)[0], 1)
  assert sorted(p.name for p in directory.iterdir()) == ["1", "lock"]


def test_two_processes_do_not_write_at_once(tmp_path):
  code = (
    "import sys; from flexivit_jax.checkpoints import run_store as native\n"
    f"writer = native.Checkpoints({str(tmp_path)!r})\n"
    "print('open', flush=True)\n"
    "sys.stdin.read()"
  )
  other = subprocess.Popen(  # noqa: S603
    [sys.executable, "-c", code],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert other.stdout.readline() == "open\n"
  with pytest.raises(run_directory.CheckpointError) as e:
    run_store.Checkpoints(tmp_path)
  assert str(e.value) == (
    f"another process trains in {tmp_path}: stop it, or give another --workdir"
  )
  other.kill()  # the lock does not outlive its holder
  other.communicate()
  run_store.Checkpoints(tmp_path).close()


def test_too_little_space_is_refused_before_writing(tmp_path, monkeypatch):
  _save_all(tmp_path, [(1, None)])
  usage = shutil.disk_usage(tmp_path)._replace(free=5)
  monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
  checkpoints = run_store.Checkpoints(tmp_path)
  with pytest.raises(run_directory.CheckpointError) as e:
    checkpoints.save(2, _arrays(2), {})
  checkpoints.close()
  assert str(e.value) == (
    f"{tmp_path}/checkpoints has 5 bytes free, and the checkpoint of step 2 "
    "takes 48 bytes: free some space, then the same command goes on"
  )


def test_a_disk_that_fills_up_leaves_the_good_step(small_disk, monkeypatch):
  disk = small_disk(4 << 10)
  _save_all(disk, [(1, None)])
  noise = np.random.default_rng(0).integers(0, 256, 5 << 20, dtype=np.uint8)
  arrays = {"state": {"noise": jnp.asarray(noise)}}
  checkpoints = run_store.Checkpoints(disk)
  # The disk fills while it is written, after it was found large enough.
  with monkeypatch.context() as patch:
    patch.setattr(run_store, "check_space", lambda *args: None)
    checkpoints.save(2, arrays, {})
  with pytest.raises(run_directory.CheckpointError) as e:
    checkpoints.wait()
  checkpoints.close()
  first, second, third = str(e.value).splitlines()
  assert first == "cannot write the checkpoint of step 2: the disk is full"
  assert second.startswith(f"{disk}/checkpoints has ")
  assert second.endswith(" MiB free; step 1 is the last whole one")
  assert third == "mend that, and the same command goes on from there"
  assert not list(disk.glob("checkpoints/*.unfinished"))
  _assert_is_step(_restore(disk)[0], 1)


class Peers:
  """Process 1 of 2; process 0 wrote something into its own directory."""

  index, count = 1, 2

  def gather(self, value):
    return ["written by process 0", value]


def test_a_directory_of_another_machine_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(run_directory, "SHARED_S", 0.0)
  with pytest.raises(run_directory.CheckpointError) as caught:
    run_store.Checkpoints(tmp_path / "run", peers=Peers())
  assert str(caught.value) == (
    f"{tmp_path / 'run'} is not the directory of that name that process 0 has: "
    "give a --workdir on storage that all machines share, mounted at the same "
    "path"
  )
  # The one that it shares is not refused, and not locked by this process.
  directory = tmp_path / "run" / run_directory.DIRECTORY
  directory.mkdir(parents=True)
  (directory / "shared").write_text("written by process 0")
  run_store.Checkpoints(tmp_path / "run", peers=Peers()).close()
  run_store.Checkpoints(tmp_path / "run").close()
