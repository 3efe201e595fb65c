"""flexivit NAME: the table of commands."""

import sys
import tomllib

import pytest

from flexivit_jax.cli import main
from flexivit_jax.core.errors import ConfigError


def test_the_help_lists_every_command(capsys):
  main.main(["--help"])
  shown = capsys.readouterr().out
  main.main([])
  assert capsys.readouterr().out == shown
  names = [line.split()[0] for line in shown.splitlines()[2:-2]]
  assert names == list(main.COMMANDS)


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_has_a_help_of_its_own(name, capsys):
  with pytest.raises(SystemExit) as e:
    main.main([name, "--help"])
  assert e.value.code == 0
  assert "--" in capsys.readouterr().out


def test_an_unknown_name_is_refused_with_the_nearest():
  with pytest.raises(ConfigError, match="did you mean 'predict'"):
    main.main(["predcit"])


@pytest.mark.parametrize(
  "start", [("-m", "flexivit_jax", "plan"), ("-m", "flexivit_jax.cli.plan")]
)
def test_the_package_and_the_old_names_are_commands(start, command):
  done = command(*start, "--config=configs/none.py", "--devices=8")
  assert done.returncode == 2
  assert "no config file configs/none.py" in done.stderr
  renamed = "this command is now: flexivit plan" in done.stderr
  assert renamed == (start[1] == "flexivit_jax.cli.plan")


def test_the_entry_point_is_this_main():
  path = main.ROOT / "pyproject.toml"
  scripts = tomllib.loads(path.read_text())["project"]["scripts"]
  assert scripts == {"flexivit": "flexivit_jax.cli.main:console"}


def test_scripts_are_those_of_the_checkout(monkeypatch, tmp_path):
  assert main._module("train") is sys.modules["train"]
  monkeypatch.setattr(main, "ROOT", tmp_path)
  with pytest.raises(ConfigError, match="pip install -e"):
    main._module("train")
