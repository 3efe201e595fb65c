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
    (["--config.seed", "1"], ["seed=1"]),
    (["--config.model.head_bias", "-10"], ["model.head_bias=-10"]),
    (["--config.a", "(1, 2)", "--config.b=x"], ["a=(1, 2)", "b=x"]),
    (["--config.a=b=c"], ["a=b=c"]),
    (["--config.a="], ["a="]),
    # The same key twice: the order decides, so it is kept.
    (["--config.a=2", "--config.a", "1"], ["a=2", "a=1"]),
  ],
)
def test_overrides_in_either_form(argv, overrides):
  config, workdir = GIVEN[:2], GIVEN[2:]
  for whole in ([*GIVEN, *argv], [*argv, *GIVEN], [*config, *argv, *workdir]):
    args, found = parse(*whole)
    assert found == overrides
    assert (args.config, args.workdir) == ("configs/x.py:8", "runs/x")


NO_VALUE = "--config.seed needs a value: --config.seed=VALUE"


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["--config.seed"], NO_VALUE),
    (["--config.seed", "--config.a=1"], NO_VALUE),
    (["--config.seed", "=", "1"], NO_VALUE),
    (["config.seed=1"], "lacks its dashes: write --config.seed=1"),
    (["config.seed", "1"], "lacks its dashes: write --config.seed=VALUE"),
    # What the shell made of spaces.
    (["--config.seed=", "1"], "write --config.seed=1, no space"),
    (["--config.a=(4,", "8)"], "put it in quotes, '--config.a=(4,...'"),
    # Misspelt, or without their prefix.
    (["--confg.seed=1"], "did you mean --config.seed=1?"),
    (["--Config.seed", "1"], "did you mean --config.seed?"),
    (["-config.seed=1"], "did you mean --config.seed=1?"),
    (["\N{EM DASH}config.seed=1"], "did you mean --config.seed=1?"),
    (["--seed=1"], "did you mean --config.seed=1?"),
    (["optimizer.eps=1"], "did you mean --config.optimizer.eps=1?"),
    (["-config"], "did you mean --config? (try --help)"),
    (["configs/y.py"], "did you mean --config configs/y.py?"),
    (["--wrkdir=x"], "did you mean --workdir?"),
    # An abbreviation is no argument: a later one could make it ambiguous.
    (["--work", "x"], "did you mean --workdir?"),
    # Words that are no such thing.
    (["model"], "unknown argument 'model' (try --help)"),
    (["-5"], "unknown argument '-5' (try --help)"),
    (["--" + "x" * 500], f"unknown argument '--{'x' * 95}...' (try --help)"),
    (["--step=soon"], "argument --step: invalid int value: 'soon'"),
  ],
)
def test_refusals(argv, message):
  assert message in refusal(*GIVEN, *argv)


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    ([], "the following arguments are required: --config, --workdir"),
    # A file of that name is a value, and no override without its dashes.
    (["--config", "config.py"], "arguments are required: --workdir"),
    # A misspelt one is not a missing one.
    (["--config=x", "--wrkdir=x"], "did you mean --workdir?"),
    (["configs/x.py", "--workdir=x"], "did you mean --config configs/x.py?"),
    (["--workdir=x", "config.seed=1"], "lacks its dashes"),
    (["--config", "--workdir=x"], "--config: expected one argument"),
  ],
)
def test_required_arguments(argv, message):
  assert message in refusal(*argv)


def test_a_command_without_a_config_knows_no_overrides():
  parser = arguments.parser("No config here.")
  text = r"^unknown argument '--config.seed=1' \(try --help\)$"
  with pytest.raises(ConfigError, match=text):
    arguments.parse(parser, ["--config.seed=1"])


def test_help_is_the_docstring_as_it_is_written(capsys):
  with pytest.raises(SystemExit) as caught:
    parse("--help")
  assert caught.value.code == 0
  out = capsys.readouterr().out
  assert "What the command does.\n\n  an example\n" in out
  assert "--config FILE[:ARG]" in out
