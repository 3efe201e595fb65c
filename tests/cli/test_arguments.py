"""Arguments, overrides among them, and errors in one line."""

import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import types

import pytest

from flexivit_jax.cli import arguments
from flexivit_jax.core.faults import Fault
from flexivit_jax.data.images import BadImageError
from flexivit_jax.experiment import ConfigError

ROOT = pathlib.Path(__file__).parents[2]

GIVEN = ["--config", "configs/x.py:8", "--workdir", "runs/x"]


def parse(*argv):
  parser = arguments.parser("What the command does.\n\n  an example")
  arguments.add_config(parser)
  parser.add_argument("--workdir", required=True)
  parser.add_argument("--step", type=int)
  return arguments.parse(parser, argv)


def refusal(*argv):
  with pytest.raises(ConfigError) as caught:
    parse(*argv)
  return str(caught.value)


def test_arguments_without_overrides():
  args, overrides = parse(*GIVEN, "--step=3")
  assert vars(args) == {
    "config": "configs/x.py:8",
    "workdir": "runs/x",
    "step": 3,
  }
  assert overrides == []


@pytest.mark.parametrize(
  ("argv", "overrides"),
  [
    (["--config.seed=1"], ["seed=1"]),
    (["--config.seed", "1"], ["seed=1"]),
    (["--config.model.head_bias", "-10"], ["model.head_bias=-10"]),
    (["--config.a=(1, 2)"], ["a=(1, 2)"]),
    (["--config.a", "(1, 2)", "--config.b=x"], ["a=(1, 2)", "b=x"]),
    (["--config.a=b=c"], ["a=b=c"]),
    (["--config.a="], ["a="]),
    # The same key twice: the order decides, so it is kept.
    (["--config.a=2", "--config.a", "1"], ["a=2", "a=1"]),
  ],
)
def test_overrides_in_either_form(argv, overrides):
  for whole in ([*GIVEN, *argv], [*argv, *GIVEN]):
    args, found = parse(*whole)
    assert found == overrides
    assert (args.config, args.workdir) == ("configs/x.py:8", "runs/x")


def test_overrides_between_the_arguments_keep_their_order():
  config, workdir = GIVEN[:2], GIVEN[2:]
  _, found = parse("--config.a", "1", *config, "--config.b=2", *workdir)
  assert found == ["a=1", "b=2"]


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["--config.seed"], "--config.seed needs a value: --config.seed=VALUE"),
    (
      ["--config.seed", "--config.a=1"],
      "--config.seed needs a value: --config.seed=VALUE",
    ),
    (
      ["--config.seed", "-x"],
      "--config.seed needs a value: --config.seed=VALUE",
    ),
    (
      ["--config.seed", "=", "1"],
      "--config.seed needs a value: --config.seed=VALUE",
    ),
    (
      ["config.seed=1"],
      "'config.seed=1' lacks its dashes: write --config.seed=1",
    ),
    (
      ["config.seed", "1"],
      "'config.seed' lacks its dashes: write --config.seed=VALUE",
    ),
    # What the shell made of spaces.
    (
      ["--config.seed=", "1"],
      "--config.seed= 1: write --config.seed=1, no space",
    ),
    (
      ["--config.sizes=(4,", "8)"],
      "--config.sizes=(4, 8): put it in quotes, '--config.sizes=(4,...'",
    ),
    # Overrides that are misspelt, or lack their prefix.
    (
      ["--confg.seed=1"],
      "unknown argument '--confg.seed=1'; did you mean --config.seed=1? "
      "(try --help)",
    ),
    (
      ["--Config.seed", "1"],
      "unknown argument '--Config.seed'; did you mean --config.seed? "
      "(try --help)",
    ),
    (
      ["-config.seed=1"],
      "unknown argument '-config.seed=1'; did you mean --config.seed=1? "
      "(try --help)",
    ),
    (
      ["\N{EM DASH}config.seed=1"],
      "unknown argument '\N{EM DASH}config.seed=1'; did you mean "
      "--config.seed=1? (try --help)",
    ),
    (
      ["--seed=1"],
      "unknown argument '--seed=1'; did you mean --config.seed=1? (try --help)",
    ),
    (
      ["optimizer.eps=1"],
      "unknown argument 'optimizer.eps=1'; did you mean "
      "--config.optimizer.eps=1? (try --help)",
    ),
    (
      ["-config"],
      "unknown argument '-config'; did you mean --config? (try --help)",
    ),
    (
      ["configs/y.py"],
      "unknown argument 'configs/y.py'; did you mean --config configs/y.py? "
      "(try --help)",
    ),
    # Words that are no such thing.
    (["model"], "unknown argument 'model' (try --help)"),
    (["a.b=1"], "unknown argument 'a.b=1' (try --help)"),
    (["-5"], "unknown argument '-5' (try --help)"),
    (
      ["--" + "x" * 500],
      f"unknown argument '--{'x' * 95}...' (try --help)",
    ),
    (
      ["--wrkdir=x"],
      "unknown argument '--wrkdir=x'; did you mean --workdir? (try --help)",
    ),
    # An abbreviation is no argument: a later one could make it ambiguous.
    (
      ["--work", "x"],
      "unknown argument '--work'; did you mean --workdir? (try --help)",
    ),
    (["stray"], "unknown argument 'stray' (try --help)"),
    (
      ["--step=soon"],
      "argument --step: invalid int value: 'soon' (try --help)",
    ),
  ],
)
def test_refusals(argv, message):
  assert refusal(*GIVEN, *argv) == message


def test_required_arguments():
  missing = "the following arguments are required: "
  assert refusal() == missing + "--config, --workdir (try --help)"
  assert refusal(*GIVEN[:2]) == missing + "--workdir (try --help)"
  # A file of that name is a value, and no override without its dashes.
  assert refusal("--config", "config.py") == missing + "--workdir (try --help)"


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (
      ["--config=configs/x.py", "--wrkdir=x"],
      "unknown argument '--wrkdir=x'; did you mean --workdir? (try --help)",
    ),
    (
      ["-config", "configs/x.py", "--workdir=x"],
      "unknown argument '-config'; did you mean --config? (try --help)",
    ),
    (
      ["configs/x.py", "--workdir=x"],
      "unknown argument 'configs/x.py'; did you mean --config configs/x.py? "
      "(try --help)",
    ),
    (
      ["--workdir=x", "config.seed=1"],
      "'config.seed=1' lacks its dashes: write --config.seed=1",
    ),
    (
      ["--config", "--workdir=x"],
      "argument --config: expected one argument (try --help)",
    ),
    (
      ["--config=x", "--workdir"],
      "argument --workdir: expected one argument (try --help)",
    ),
  ],
)
def test_a_misspelt_argument_is_not_a_missing_one(argv, message):
  assert refusal(*argv) == message


def test_a_command_without_a_config_knows_no_overrides():
  parser = arguments.parser("No config here.")
  parser.add_argument("--output")
  with pytest.raises(ConfigError) as caught:
    arguments.parse(parser, ["--config.seed=1"])
  assert str(caught.value) == (
    "unknown argument '--config.seed=1' (try --help)"
  )


def test_help_is_the_docstring_as_it_is_written(capsys):
  with pytest.raises(SystemExit) as caught:
    parse("--help")
  assert caught.value.code == 0
  out = capsys.readouterr().out
  assert "What the command does.\n\n  an example\n" in out
  assert "--config FILE[:ARG]" in out


def test_run_ends_what_the_user_can_mend_in_one_line(capsys):
  def main():
    raise ConfigError("config.seed is -1: give at least 0")

  with pytest.raises(SystemExit) as caught:
    arguments.run(main)
  assert caught.value.code == 2
  captured = capsys.readouterr()
  assert captured.err == "error: config.seed is -1: give at least 0\n"
  assert captured.out == ""


def ending(error, capsys):
  """Status and text that a command ends with when it raises this."""

  def main():
    raise error

  with pytest.raises(SystemExit) as caught:
    arguments.run(main)
  captured = capsys.readouterr()
  assert captured.out == ""
  return caught.value.code, captured.err


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
    arguments.run(main)
  assert caught.value is error
  assert capsys.readouterr().err == ""


@pytest.mark.parametrize("code", [0, 3, None, "a text"])
def test_run_lets_an_exit_through(code):
  with pytest.raises(SystemExit) as caught:
    arguments.run(lambda: sys.exit(code))
  assert caught.value.code == code


def test_faults_are_told_as_they_are(capsys):
  told = "step 30 is damaged:\n  state/params\ndelete it, and go on"
  assert ending(Fault(told), capsys) == (1, f"error: {told}\n")
  image = BadImageError("a.jpg: cannot decode this image: cut")
  assert ending(image, capsys) == (1, f"error: {image}\n")


def test_ctrl_c(capsys):
  line = "interrupted; the same command goes on\n"
  assert ending(KeyboardInterrupt(), capsys) == (130, line)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_what_is_free(
  number, capsys, tmp_path, monkeypatch
):
  asked, text = [], os.strerror(number)

  def disk_usage(path):
    asked.append(path)
    return types.SimpleNamespace(total=50_000_000_000, free=20_000_000)

  monkeypatch.setattr(shutil, "disk_usage", disk_usage)
  way_out = "free some space, then the same command goes on"
  path = tmp_path / "not" / "there"
  for name in (path, str(path), os.fsencode(path)):
    error = OSError(number, text, name)
    assert ending(error, capsys) == (
      1,
      f"error: {path}: {text} (0.02 of 50.00 GB free): {way_out}\n",
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


def test_run_returns_after_a_command_that_works(capsys):
  arguments.run(lambda: print("done"))
  assert capsys.readouterr().out == "done\n"


# Commands in a process of their own.

SCRIPT = """
import sys, time
from flexivit_jax.cli import arguments

def main():
  {}

arguments.run(main)
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


@pytest.mark.parametrize(
  "main",
  [
    "print('as much as a pipe holds, and more' * 10_000)",
    "print('no more than waits to be printed')",
    "print('at once', flush=True)",
  ],
)
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
  assert err == (
    "error: No space left on device: free some space, then the same command "
    "goes on\n"
  )


def test_ctrl_c_from_a_terminal(start):
  main = "print('ready', flush=True); time.sleep(100)"
  process = start(main, stdout=subprocess.PIPE)
  assert process.stdout.readline() == "ready\n"
  process.send_signal(signal.SIGINT)
  _, err = process.communicate(timeout=60)
  assert process.returncode == 130
  assert err == "interrupted; the same command goes on\n"


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (
      ["--config=configs/flexivit_digit.py"],
      "no config file configs/flexivit_digit.py (did you mean "
      "configs/flexivit_digits.py?); in configs: ",
    ),
    (
      ["--config={broken}"],
      "{broken}, line 2: NameError: name 'foo' is not defined",
    ),
    (
      ["--config=configs/vit_digits.py", "--config.model.kernel_hw=16"],
      "config.model.kernel_hw is 16: expected 2 values in a tuple; "
      "give (16, 16)",
    ),
    (
      ["--config=configs/vit_digits.py", "config.seed=1"],
      "'config.seed=1' lacks its dashes: write --config.seed=1",
    ),
  ],
)
def test_the_train_command_refuses_in_a_few_lines(
  command, tmp_path, argv, message
):
  broken = tmp_path / "broken.py"
  broken.write_text("import math\nx = foo\n")
  argv = [word.format(broken=broken) for word in argv]
  done = command("train.py", *argv, f"--workdir={tmp_path / 'run'}")
  assert done.returncode == 2
  assert done.stderr.startswith(f"error: {message.format(broken=broken)}")
  assert len(done.stderr.splitlines()) == 1
  assert done.stdout == ""
  assert not (tmp_path / "run").exists()
