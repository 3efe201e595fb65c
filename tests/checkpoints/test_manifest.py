"""One file and its sum: replaced together, compared before use."""

import errno
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from flexivit_jax.checkpoints import atomic, manifest, npz, safetensors

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


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
  path = tmp_path / "missing" / "model.npz"
  with pytest.raises(FileNotFoundError) as error:
    npz.write(path, {"w": np.zeros(3)})
  assert error.value.filename == str(path)
  # Nor is another file's name lost, where the writer failed at that one.
  other = tmp_path / "other"
  with pytest.raises(FileNotFoundError) as error:
    with atomic.replacing(tmp_path / "model.npz"):
      other.read_text()
  assert str(error.value.filename) == str(other)


def test_a_new_file_is_as_readable_as_any_other(tmp_path):
  path = tmp_path / "model.npz"
  plain = _file(tmp_path).stat().st_mode
  for container in (npz, safetensors):
    container.write(path, {"w": np.zeros(3)}, {})
    assert path.stat().st_mode == plain


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


# Writes one file after another, each full of its number.
WRITER = """
import pathlib, sys
import numpy as np
from flexivit_jax.checkpoints import {name}

path = pathlib.Path(sys.argv[1])
for number in range(1, 256):
  if not {old}:
    path.unlink(missing_ok=True)
  arrays = {{"w": np.full(2**26, number, np.uint8)}}
  {name}.write(path, arrays, {{}})
"""


@FORMATS
@pytest.mark.parametrize("old", [True, False])
def test_killed_while_it_writes(tmp_path, container, old):
  path = tmp_path / "model"
  name = container.__name__.rpartition(".")[2]
  code = WRITER.format(name=name, old=old)
  writer = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT)  # noqa: S603
  try:
    deadline = time.monotonic() + 100
    while not _stopped_amid_a_file(writer, path, old):
      assert writer.poll() is None
      assert time.monotonic() < deadline
  finally:
    writer.kill()
    assert writer.wait() == -signal.SIGKILL
  left_over = list(tmp_path.glob("*.unfinished"))
  assert len(left_over) == 1
  assert path.exists() == old
  if old:
    assert manifest.check_sum(path) is not None
    array = container.read(path)[0]["w"]
    assert array.shape == (2**26,)
    assert (array == array[0]).all()
  # And what was left does not matter to the next who writes.
  container.write(path, {"w": np.zeros(3)}, {})
  assert manifest.check_sum(path) is not None
  np.testing.assert_array_equal(container.read(path)[0]["w"], np.zeros(3))
  for unfinished in left_over:
    unfinished.unlink()


def _stopped_amid_a_file(writer, path, old):
  """Stops the writer if part of a file is there; `old`: beside a whole one."""
  time.sleep(0.001)
  if path.exists() != old:
    return False
  writer.send_signal(signal.SIGSTOP)
  # Eight digits, and not of the sum, which is there after the whole file.
  unfinished = path.parent.glob(f"model.{'?' * 8}.unfinished")
  parts = [p.stat().st_size for p in unfinished]
  if path.exists() == old and any(0 < p < 2**26 for p in parts):
    return True
  writer.send_signal(signal.SIGCONT)
  return False


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


@FORMATS
def test_a_disk_full_but_for_the_sum_leaves_nothing(
  tmp_path, small_disk, container
):
  def arrays(size):
    return {"w": np.zeros(size, np.uint8)}

  container.write(tmp_path / "model", arrays(60_000), {})
  rest = (tmp_path / "model").stat().st_size - 60_000
  container.write(tmp_path / "model", arrays(2**16 - rest), {})
  assert (tmp_path / "model").stat().st_size == 2**16
  disk = small_disk(64)
  with pytest.raises(OSError, match="No space left on device"):
    container.write(disk / "model", arrays(2**16 - rest), {})
  assert _names(disk) == []
  # The file itself would have fitted.
  (disk / "model").write_bytes((tmp_path / "model").read_bytes())


@FORMATS
def test_every_flipped_byte_is_noticed(tmp_path, container):
  path = tmp_path / "model"
  rng = np.random.default_rng(0)
  arrays = {name: rng.random((5, 7), np.float32) for name in ("a", "b/c")}
  container.write(path, arrays, {"a": "1"})
  whole = path.read_bytes()
  written = manifest.check_sum(path)
  assert written == manifest.digest(path)
  for _ in range(50):
    damaged = bytearray(whole)
    damaged[rng.integers(len(whole))] ^= int(rng.integers(1, 256))
    path.write_bytes(damaged)
    with pytest.raises(ValueError) as error:
      manifest.check_sum(path)
    start = f"{path} has changed: SHA-256 {manifest.digest(path)[:12]}..., "
    assert str(error.value).startswith(f"{start}written {written[:12]}...: ")
  path.write_bytes(whole)
  assert manifest.check_sum(path) == written


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
