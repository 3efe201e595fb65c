"""How commands end: status and text of each error, and what is let through."""

import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import types

import pytest

from flexivit_jax.cli import errors
from flexivit_jax.core.errors import ConfigError, Fault
from flexivit_jax.data.pixels.decode import BadImageError

ROOT = pathlib.Path(__file__).parents[2]


def ending(error, capsys):
  """Status and text that a command ends with when it raises this."""

  def main():
    raise error

  with pytest.raises(SystemExit) as caught:
    errors.run(main)
  captured = capsys.readouterr()
  assert captured.out == ""
  return caught.value.code, captured.err


def test_what_the_user_can_mend_ends_it_in_a_line(capsys):
  text = "config.seed is -1: give at least 0"
  assert ending(ConfigError(text), capsys) == (2, f"error: {text}\n")


@pytest.mark.parametrize(
  "error",
  [
    ValueError("a mistake of ours"),
    KeyError("a mistake of ours"),
    OSError("no path that could be named"),
    OSError(errno.EBADF, "an open file has a number for a name", 7),
    BrokenPipeError(errno.EPIPE, "of a worker, not of the terminal"),
  ],
  ids=repr,
)
def test_run_lets_our_own_mistakes_through(error, capsys):
  def main():
    raise error

  with pytest.raises(type(error)) as caught:
    errors.run(main)
  assert caught.value is error
  assert capsys.readouterr().err == ""


@pytest.mark.parametrize("code", [0, 3, None, "a text"])
def test_run_lets_an_exit_through(code):
  with pytest.raises(SystemExit) as caught:
    errors.run(lambda: sys.exit(code))
  assert caught.value.code == code


def test_faults_are_told_as_they_are(capsys):
  told = "step 30 is damaged:\n  state/params\ndelete it, and go on"
  assert ending(Fault(told), capsys) == (1, f"error: {told}\n")
  image = BadImageError("a.jpg: cannot decode this image: cut")
  way_out = (
    "mend it, or leave it out: --config.on_bad_image=skip of train.py, "
    "--on_bad_image=skip of evaluate.py and few-shot"
  )
  assert ending(image, capsys) == (1, f"error: {image}\n{way_out}\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_what_is_free(
  number, capsys, tmp_path, monkeypatch
):
  asked, text = [], os.strerror(number)

  def disk_usage(path):
    asked.append(path)
    return types.SimpleNamespace(total=50 << 30, free=20 << 20)

  monkeypatch.setattr(shutil, "disk_usage", disk_usage)
  way_out = "free some space, then the same command goes on"
  path = tmp_path / "not" / "there"
  for name in (path, str(path), os.fsencode(path)):
    error = OSError(number, text, name)
    assert ending(error, capsys) == (
      1,
      f"error: {path}: {text} (20.0 MiB free): {way_out}\n",
    )
  assert asked == [tmp_path] * 3
  # A write knows no path.
  error = OSError(number, text)
  assert ending(error, capsys) == (1, f"error: {text}: {way_out}\n")


def test_files_that_cannot_be_opened_end_it_in_a_line(capsys, tmp_path):
  (tmp_path / "file").touch()
  for path, mode, text in (
    (tmp_path / "none", "r", "No such file or directory"),
    (tmp_path, "r", "Is a directory"),
    (tmp_path / "file" / "x", "w", "Not a directory"),
  ):
    with pytest.raises(OSError, match=text) as caught:
      path.open(mode)
    assert ending(caught.value, capsys) == (1, f"error: {path}: {text}\n")
  error = PermissionError(errno.EACCES, "Permission denied", "runs/x")
  assert ending(error, capsys) == (1, "error: runs/x: Permission denied\n")


SCRIPT = """
import sys, time
from flexivit_jax.cli import errors

def main():
  {}

errors.run(main)
"""


@pytest.fixture
def start(tmp_path):
  """Starts a command whose main is one line; its stdout is given."""

  def start(main, stdout):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(main))
    return subprocess.Popen(  # noqa: S603
      [sys.executable, str(script)],
      env=os.environ | {"PYTHONPATH": str(ROOT)},
      stdout=stdout,
      stderr=subprocess.PIPE,
      text=True,
    )

  return start


@pytest.mark.parametrize("main", ["print('x' * 400_000)", "print('little')"])
def test_a_reader_that_left_ends_it_quietly(start, main):
  reader, writer = os.pipe()
  os.close(reader)
  process = start(main, stdout=writer)
  os.close(writer)
  _, err = process.communicate(timeout=120)
  assert (process.returncode, err) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
def test_output_to_a_full_disk(start):
  with open("/dev/full", "w") as full:
    _, err = (process := start("print('x')", stdout=full)).communicate()
  assert process.returncode == 1
  assert err.startswith("error: No space left on device: free some space")


@pytest.mark.parametrize(
  "main",
  [
    "print('ready', flush=True); time.sleep(100)",
    # An exception that is raised in one of these is printed and forgotten.
    "import gc; gc.callbacks.append(lambda *_: "
    "(print('ready', flush=True), time.sleep(100))); gc.collect()",
  ],
)
def test_ctrl_c_from_a_terminal(start, main):
  process = start(main, stdout=subprocess.PIPE)
  assert process.stdout.readline() == "ready\n"
  process.send_signal(signal.SIGINT)
  _, err = process.communicate(timeout=60)
  assert (process.returncode, err) == (130, "interrupted\n")


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["--config=configs/flexivit_digit.py"], "did you mean configs/flexivit_d"),
    (["--config={broken}"], "{broken}, line 2: NameError: name 'foo' is not"),
    (["--config=configs/vit_digits.py", "--config.seed=x"], "config.seed is"),
    (["--config=configs/vit_digits.py", "config.seed=1"], "lacks its dashes"),
  ],
)
def test_the_train_command_refuses_in_a_line(here, tmp_path, argv, message):
  broken = tmp_path / "broken.py"
  broken.write_text("import math\nx = foo\n")
  argv = [word.format(broken=broken) for word in argv]
  done = here("train.py", *argv, f"--workdir={tmp_path / 'run'}")
  assert (done.returncode, done.stdout) == (2, "")
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: ")
  assert message.format(broken=broken) in line
  assert not (tmp_path / "run").exists()
