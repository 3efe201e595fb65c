"""Arguments, overrides among them, and errors in one line."""

import pytest

from flexivit_jax.cli import arguments
from flexivit_jax.data.images import BadImageError
from flexivit_jax.experiment import ConfigError

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
      ["config.seed=1"],
      "'config.seed=1' lacks its dashes: write --config.seed=1",
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


@pytest.mark.parametrize("error", [ValueError, KeyError])
def test_run_lets_our_own_mistakes_through(error, capsys):
  def main():
    raise error("a mistake of ours")

  with pytest.raises(error):
    arguments.run(main)
  assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
  ("error", "code", "line"),
  [
    (BadImageError("a.jpg: cut"), 1, "error: a.jpg: cut; replace it and try"),
    (KeyboardInterrupt(), 130, "interrupted; the same command goes on"),
  ],
)
def test_run_ends_in_a_line_for_bad_images_and_ctrl_c(
  error, code, line, capsys
):
  def main():
    raise error

  with pytest.raises(SystemExit) as caught:
    arguments.run(main)
  assert caught.value.code == code
  assert capsys.readouterr().err.startswith(line)


def test_run_returns_after_a_command_that_works(capsys):
  arguments.run(lambda: print("done"))
  assert capsys.readouterr().out == "done\n"
