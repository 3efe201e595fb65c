"""Arguments, overrides among them, and the refusal of others."""

import pytest

from flexivit_jax.cli import arguments
from flexivit_jax.core.errors import ConfigError

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
