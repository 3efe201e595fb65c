"""One file and its sum: replaced together, compared before use."""

import errno
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from flexivit_jax.checkpoints import manifest, npz, safetensors

ROOT = pathlib.Path(__file__).parents[2]

# FIPS 180-2, appendix B.1.
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

FORMATS = pytest.mark.parametrize(
  "container", [npz, safetensors], ids=["npz", "safetensors"]
)


def _file(directory, content="abc"):
  path = directory / "model.npz"
  path.write_text(content)
  return path


def _names(directory):
  return sorted(path.name for path in directory.iterdir())


def test_the_digest_is_sha256(tmp_path):
  assert manifest.digest(_file(tmp_path)) == ABC


def test_a_sum_is_written_and_agrees(tmp_path):
  path = _file(tmp_path)
  assert manifest.check_sum(path) is None
  manifest.write_sum(path)
  assert _names(tmp_path) == ["model.npz", "model.npz.sha256"]
  assert (tmp_path / "model.npz.sha256").read_text() == f"{ABC}  model.npz\n"
  assert manifest.check_sum(path) == ABC


def test_sha256sum_reads_the_sum(tmp_path):
  sha256sum = shutil.which("sha256sum")
  if sha256sum is None:
    pytest.skip("no sha256sum here")
  manifest.write_sum(_file(tmp_path))
  check = [sha256sum, "--check", "--strict", "model.npz.sha256"]
  done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True)  # noqa: S603
  assert (done.returncode, done.stdout) == (0, "model.npz: OK\n")


@pytest.mark.parametrize(
  "line", ["{} *model.npz\n", "{}  old name", "{}  x\r\n"]
)
def test_sums_that_others_wrote_are_read(tmp_path, line):
  path = _file(tmp_path)
  (tmp_path / "model.npz.sha256").write_text(line.format(ABC), newline="")
  assert manifest.check_sum(path) == ABC


def test_a_changed_file_is_refused(tmp_path):
  path = _file(tmp_path)
  manifest.write_sum(path)
  path.write_text("abd")
  with pytest.raises(ValueError) as error:
    manifest.check_sum(path)
  assert str(error.value) == (
    f"{path} has changed: SHA-256 a52d159f262b..., written ba7816bf8f01...: "
    f"get it from its source again, or delete {path}.sha256 if the change was "
    "meant"
  )


@pytest.mark.parametrize(
  "text",
  [
    *("", "\n", ABC, f"{ABC}\n", f"{ABC[1:]}  a\n", f"{ABC} a\n"),
    *(f" {ABC}  a\n", f"{ABC.upper()}  a\n", f"{ABC}  a\n{ABC}  b\n"),
    "<html>404</html>\n",
    "\0" * 76,
  ],
)
def test_a_damaged_sum_is_refused(tmp_path, text):
  path = _file(tmp_path)
  (tmp_path / "model.npz.sha256").write_text(text)
  with pytest.raises(ValueError) as error:
    manifest.check_sum(path)
  assert str(error.value) == (
    f"{path}.sha256 is damaged, which should be one line, SHA-256 and name: "
    f"get it from its source again, or delete {path}.sha256 to do without"
  )


def _both(directory):
  """The file's text and its sum's, each None where there is none."""
  paths = (directory / "model.npz", directory / "model.npz.sha256")
  return [path.read_text() if path.exists() else None for path in paths]


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_exception_there_is_what_there_was(tmp_path, old, error):
  path = tmp_path / "model.npz"
  if old:
    manifest.write_sum(_file(tmp_path))
  before = _both(tmp_path)

  def write_half():
    with manifest.replacing_with_sum(path) as unfinished:
      unfinished.write_text("half")
      raise error

  with pytest.raises(error):
    write_half()
  assert _both(tmp_path) == before
  assert len(_names(tmp_path)) == 2 * old


# Ends a process by SIGKILL at each call that changes what the disk holds.
CRASHES = """
import os, pathlib, signal, sys
from flexivit_jax.checkpoints import manifest

def dying_at(number):
  def dying(call):
    def counted(*args, **kwargs):
      nonlocal number
      if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
      number -= 1
      return call(*args, **kwargs)
    return counted
  for name in ("fsync", "replace", "unlink"):
    setattr(os, name, dying(getattr(os, name)))

path = pathlib.Path(sys.argv[1])
status, number = None, 0
while status != 0:
  path.write_text("old")
  manifest.write_sum(path)
  child = os.fork()
  if child == 0:
    dying_at(number)
    with manifest.replacing_with_sum(path) as unfinished:
      unfinished.write_text("new")
    os._exit(0)
  status = os.waitpid(child, 0)[1]
  assert status in (0, signal.SIGKILL)
  agrees = manifest.check_sum(path) is not None
  print(path.read_text(), "with sum" if agrees else "without")
  number += 1
"""


def test_no_crash_leaves_half_a_file_or_one_beside_anothers_sum(tmp_path):
  done = subprocess.run(  # noqa: S603
    [sys.executable, "-c", CRASHES, str(tmp_path / "model.npz")],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr  # check_sum raised nothing
  states = done.stdout.splitlines()
  assert list(dict.fromkeys(states)) == [
    *("old with sum", "old without", "new without", "new with sum"),
  ]
  assert states == sorted(states, key=list(dict.fromkeys(states)).index)


@FORMATS
@pytest.mark.parametrize("old", [True, False])
def test_a_full_disk_leaves_what_there_was(small_disk, container, old):
  disk = small_disk(256)
  path = disk / "model"
  small = {"w": np.arange(3)}
  if old:
    container.write(path, small, {})
  with pytest.raises(OSError) as error:
    container.write(path, {"w": np.ones(2**20)}, {})
  assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))
  assert str(error.value) == f"[Errno 28] No space left on device: '{path}'"
  assert _names(disk) == ["model", "model.sha256"][: 2 * old]
  if old:
    assert manifest.check_sum(path) is not None
    np.testing.assert_array_equal(container.read(path)[0]["w"], small["w"])


def test_a_flipped_byte_of_the_sum_never_lets_a_changed_file_pass(tmp_path):
  path = _file(tmp_path)
  manifest.write_sum(path)
  sum_file = tmp_path / "model.npz.sha256"
  whole = sum_file.read_bytes()
  rng = np.random.default_rng(0)
  refused = 0
  for place in range(len(whole)):
    damaged = bytearray(whole)
    damaged[place] ^= int(rng.integers(1, 256))
    sum_file.write_bytes(damaged)
    path.write_text("abc")
    try:
      assert manifest.check_sum(path) == ABC
    except ValueError:
      refused += 1
    path.write_text("abd")
    with pytest.raises(ValueError, match=r"has changed|is damaged"):
      manifest.check_sum(path)
  # The digest, and a space or two; the name is for sha256sum.
  assert refused >= 64
